"""Work items in this process; on workers they are test_workers.py's."""

import pickle
from pathlib import Path

from diffusegen_core.data.types import DataType
from diffusegen_core.parallel import fanout, progress
from diffusegen_core.store.workspace import Workspace


def test_items_run_in_their_order_and_results_come_in_it():
    seen = []

    def work(x: int) -> int:
        seen.append(x)
        return x * x
    items = [fanout.Item(str(i), None, {"x": i}) for i in (3, 1, 2)]
    assert fanout.run(work, items, "Squares") == [9, 1, 4]
    assert seen == [3, 1, 2]
    assert fanout.run(work, [], "Nothing") == []


def test_items_can_be_sent_to_another_process(nano_params, tmp_path: Path):
    item = fanout.Item("a", Workspace(tmp_path, 3), {
        "settings": nano_params.train, "indices": [1, 2], "folder": Path("x"),
        "data_type": DataType.parse("20-Styled-Diff")})
    assert pickle.loads(pickle.dumps(item)) == item


def test_what_the_work_wants_shown_is_shown_to_its_own_watcher_alone(tmp_path: Path):
    seen = []
    items = [fanout.Item(name, None, {"name": name, "folder": tmp_path / name}) for name in ("a", "b")]
    fanout.run(progress.show, items, "Curves", watch=lambda *what: seen.append(what))
    fanout.run(progress.show, items, "Curves")
    assert seen == [("a", tmp_path / "a"), ("b", tmp_path / "b")]
