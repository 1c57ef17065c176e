"""What a person sees while training runs, and the clocks behind it."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from tqdm.auto import tqdm

from accel_tx.train.state import TrainState


class Progress:
    """A progress bar where a terminal or a notebook watches, else a line at every log point; main process only."""

    def __init__(self, state: TrainState, is_main: bool) -> None:
        self.state = state
        self.is_main = is_main
        self.started_at_s = time.monotonic()
        self.window_at_s = self.started_at_s - state.window.elapsed_s
        self.trained_before_s = state.trained_s
        self.first_update = state.update
        # disable=None: only where stderr is no terminal
        self.bar = tqdm(
            total=state.n_updates,
            initial=state.update,
            unit="update",
            dynamic_ncols=True,
            disable=None if is_main else True,
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.bar.close()

    def advance(self) -> None:
        """One update is done."""
        self.bar.update()

    def go_back(self, state: TrainState) -> None:
        """The run stands at an earlier update again; the time spent since then stays spent."""
        self.state = state
        self.first_update = min(self.first_update, state.update)
        self.window_at_s = time.monotonic() - state.window.elapsed_s
        self.bar.n = state.update
        self.bar.refresh()

    def say(self, text: str) -> None:
        """Print a line, above the bar."""
        if self.is_main:
            self.bar.write(text)
            sys.stdout.flush()

    def show(self, values: dict[str, Any]) -> None:
        """Show a line of metrics: loss, learning rate, target tokens per second, and the time left."""
        numbers = {
            "loss": "not finite" if values["loss"] is None else f"{values['loss']:.3f}",
            "lr": f"{values['lr']:.2e}",
            "tok/s": f"{values['tgt_tokens_per_s']:,.0f}",
        }
        if not self.bar.disable:
            self.bar.set_postfix(numbers, refresh=False)
            return
        done, n_updates = self.state.update, self.state.n_updates
        left_s = self.this_start_s() / max(1, done - self.first_update) * (n_updates - done)
        shown = "  ".join(f"{name} {value}" for name, value in numbers.items())
        self.say(f"update {done:,}/{n_updates:,}  epoch {values['epoch']:.2f}  {shown}  left {left_s / 60:.1f} min")

    def this_start_s(self) -> float:
        """Seconds since this start began to train."""
        return time.monotonic() - self.started_at_s

    def trained_s(self) -> float:
        """Seconds of training and validation over all starts."""
        return self.trained_before_s + self.this_start_s()

    def window_s(self) -> float:
        """Seconds of training since the last line of metrics, over all starts."""
        return time.monotonic() - self.window_at_s

    def restart_window_s(self) -> float:
        """The same, and the next window begins."""
        elapsed_s = self.window_s()
        self.window_at_s = time.monotonic()
        return elapsed_s

    @contextlib.contextmanager
    def outside_window(self) -> Iterator[None]:
        """Time inside is not the training's: tokens per second do not count it."""
        entered_at_s = time.monotonic()
        yield
        self.window_at_s += time.monotonic() - entered_at_s
