"""Stopping by signals: one is noted; the same one told twice, as clusters do, is no order to hurry."""

import os
import signal

import pytest

from rsdnet.training import signals
from rsdnet.training.signals import Stopper


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_told_again_at_once_noted_too(which: signal.Signals) -> None:
    before = signal.getsignal(which)
    with Stopper() as stopper:
        assert stopper.signal == 0
        for _ in range(3):
            os.kill(os.getpid(), which)
        assert stopper.signal == which
    assert signal.getsignal(which) == before


def test_ctrl_c_pressed_again_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "IMPATIENT", -1.0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with Stopper() as stopper:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            assert stopper.signal == signal.SIGTERM
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
