#!/usr/bin/env bash
# A lent GPU's two calls, and what comes before and after: pack | figures | train | unpack (README.md, On a GPU).
set -euo pipefail
cd "$(dirname "$0")/.."
export CARD_BEGAN=${CARD_BEGAN:-$(date +%s)} PYTHONUNBUFFERED=1 NO_ALBUMENTATIONS_UPDATE=1 HF_HUB_OFFLINE=1
python=${PYTHON:-python3}
site=${TMPDIR:-/tmp}/card-site
if [ "${1:-}" != pack ] && ! "$python" -c 'import pydantic, albumentations' 2>/dev/null; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" \
        .card/wheels/*.whl
    export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
fi
exec "$python" benchmarks/card.py "$@"
