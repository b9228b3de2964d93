"""test/benchmark.py, part step: where the time of a training step goes, taken inside engine.train_epoch itself."""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from benchmark_measure import Bench, Goal, build_net, replaced, silence

import amp
import dataset
import engine
import runtime as rt

MOST_OUTSIDE_MS = 15
COMPUTING = ("forward", "backward", "optimiser")
PARTS = ("data", *COMPUTING, "loss", "metric", "sum and read-back", "line", "rest")
READS = ("item", "tolist", "cpu", "numpy", "__float__", "__int__", "__bool__")


class Stopwatch:
    """Seconds by part, each without those of the parts called within it; and how often tensors were read, by part."""

    def __init__(self):
        self.seconds, self.reads, self.stack = Counter(), Counter(), ["rest"]
        self.since = time.perf_counter()

    def _close(self) -> None:
        now = time.perf_counter()
        self.seconds[self.stack[-1]] += now - self.since
        self.since = now

    @contextmanager
    def within(self, part: str) -> Iterator[None]:
        """What is done here counts for the part."""
        self._close()
        self.stack.append(part)
        try:
            yield
        finally:
            self._close()
            self.stack.pop()

    def timed(self, part: str, function: Callable) -> Callable:
        """The function, its time counted for the part."""

        def call(*args, **kwargs):
            with self.within(part):
                return function(*args, **kwargs)

        return call

    def counted(self, function: Callable) -> Callable:
        """A tensor's method that reads it, counted for the part it is called in."""

        def call(*args, **kwargs):
            self.reads[self.stack[-1]] += 1
            return function(*args, **kwargs)

        return call

    def lap(self) -> tuple[Counter, Counter]:
        """Seconds and reads since the last lap."""
        self._close()
        lap = self.seconds, self.reads
        self.seconds, self.reads = Counter(), Counter()
        return lap


class TimedLoader:
    """The first `steps` batches of a loader, the waiting for each timed."""

    def __init__(self, loader: Iterable, steps: int, watch: Stopwatch):
        self.loader, self.steps, self.watch = loader, steps, watch

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator:
        with self.watch.within("data"):
            batches = iter(self.loader)
        for _ in range(self.steps):
            with self.watch.within("data"):
                batch = next(batches)
            yield batch


def laps(bench: Bench, warm_up: int, steps: int) -> list[tuple[Counter, Counter]]:
    """Train for some steps, as train.py does; returns the seconds and reads of each but the first ones."""
    runtime, args = rt.init("cpu"), bench.settings()
    train, _ = dataset.open_dataset(bench.data[0], 1, vars(args), args.cache_mb)
    loader = dataset.train_loader(train, args.batch_size, 1 if bench.tiny else 2)
    model = build_net("UNet")
    optimizer = amp.adam(model.parameters(), runtime, "O0", lr=args.lr, weight_decay=args.weight_decay)
    precision = amp.prepare(model, optimizer, runtime, "O0", 1.0)
    criterion, watch, found = engine.build_criterion(args.loss), Stopwatch(), []
    owners = [(precision.model, "forward", "forward"), (precision, "step", "backward")]
    owners += [(precision.optimizer, "step", "optimiser"), (criterion, "forward", "loss")]
    owners += [(engine, "iou_score", "metric"), (engine, "progress_line", "line")]
    owners += [(rt.Runtime, "sum_later", "sum and read-back"), (rt.Later, "read", "sum and read-back")]
    replacements = [(owner, name, watch.timed(part, getattr(owner, name))) for owner, name, part in owners]
    replacements.append((engine, "print", watch.timed("line", print)))
    replacements += [(torch.Tensor, name, watch.counted(getattr(torch.Tensor, name))) for name in READS]
    steps = min(warm_up + steps, len(loader))
    with replaced(*replacements), silence():
        watch.lap()
        engine.train_epoch(
            precision.model,
            TimedLoader(loader, steps, watch),
            criterion,
            precision,
            runtime,
            0,
            after_step=lambda: found.append(watch.lap()),
        )
    return found[min(warm_up, steps - 1) :]


def run(bench: Bench) -> None:
    """Add the part's rows."""
    found = laps(bench, *((1, 2) if bench.tiny else (4, 4 * bench.args.repeats)))
    all_parts = [{part: seconds[part] for part in PARTS} for seconds, _ in found]
    size = f"UNet, batch {bench.batch_size}, {bench.data[1]}"
    for part in PARTS:
        bench.add("step", f"{part} ({size})", "ms", ours=1e3 * statistics.median(lap[part] for lap in all_parts))
    total = [sum(lap.values()) for lap in all_parts]
    outside = [sum(seconds for part, seconds in lap.items() if part not in COMPUTING) for lap in all_parts]
    bench.add("step", "all", "ms", ours=1e3 * statistics.median(total))
    goal = Goal("ours", most=MOST_OUTSIDE_MS)
    bench.add("step", "all but forward, backward, optimiser", "ms", ours=1e3 * statistics.median(outside), goal=goal)
    # on the CPU, where reading waits for nothing; what waits on an accelerator is counted in a test
    where = Counter(part for _, reads in found for part in reads.elements())
    for part, reads in where.items():
        bench.add("step", f"reads of tensors in {part} (for information)", "reads", ours=reads / len(found))
