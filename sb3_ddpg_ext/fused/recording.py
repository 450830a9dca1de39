"""A sequence of PyTorch operations, recorded once as a CUDA graph and replayed from then on."""

from collections.abc import Callable
from typing import Any

import torch as th


class Recording:
    """A function as a CUDA graph. It is recorded when it is run for the first time."""

    def __init__(self) -> None:
        self._constants: Any = None
        self._replay: Callable[[], None] | None = None

    def run(self, compute: Callable[[], None], constants: Any, state: list[th.Tensor]) -> None:
        """
        Replay the recording, or make a new one if there is none for these constants.

        :param compute: The function
        :param constants: All Python numbers that it uses. They are fixed in the recording
        :param state: All tensors that it changes and reads again the next time
        """
        if self._replay is None or constants != self._constants:
            before = [tensor.clone() for tensor in state]
            self._constants, self._replay = constants, record(compute)
            for tensor, value in zip(state, before, strict=True):
                tensor.copy_(value)  # `record` has run the function a few times
        self._replay()

    def discard(self) -> None:
        """Make a new recording the next time, since the function works on other tensors now."""
        self._replay = None


def record(compute: Callable[[], None]) -> Callable[[], None]:
    """
    :param compute: A function whose operations run on a CUDA device; it is run a few times, to set up the libraries
    :return: Runs the same operations again
    """
    stream = th.cuda.Stream()
    stream.wait_stream(th.cuda.current_stream())
    with th.cuda.stream(stream):
        for _ in range(3):
            compute()
    th.cuda.current_stream().wait_stream(stream)
    graph = th.cuda.CUDAGraph()
    with th.cuda.graph(graph):
        compute()
    replay: Callable[[], None] = graph.replay
    return replay
