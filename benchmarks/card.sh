#!/usr/bin/env bash
# All figures of a GPU, and a model trained on it: pack | figures | train | unpack (README.md, On a GPU).
set -euo pipefail
cd "$(dirname "$0")/.."
export CARD_BEGAN=${CARD_BEGAN:-$(date +%s)} PYTHONUNBUFFERED=1 NO_ALBUMENTATIONS_UPDATE=1 HF_HUB_OFFLINE=1
if [ -x .venv/bin/python ]; then found=.venv/bin/python; else found=python3; fi
python=${PYTHON:-$found}
site=${TMPDIR:-/tmp}/card-site
if [ "${1:-}" != pack ] && ! "$python" -c 'import pydantic, albumentations' 2>/dev/null; then
    if [ ! -d .card/wheels ]; then
        echo "Error: $python lacks packages, and .card/wheels is not there: make it with \`benchmarks/card.sh pack\`." >&2
        exit 2
    fi
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" \
        .card/wheels/*.whl
    export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
fi
exec "$python" benchmarks/card.py "$@"
