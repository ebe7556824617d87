"""Streams that outlive what they are written to."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import pytest

from pyro_mmvae.streams import SurvivingStream


def test_surviving_stream_passes_text_on() -> None:
    target = io.StringIO()
    stream = SurvivingStream(target)
    assert stream.write("text") == 4
    stream.flush()
    assert (target.getvalue(), stream.error, stream.isatty()) == ("text", None, False)


def test_surviving_stream_of_a_closed_pipe_drops_text() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as target:
        os.close(reading)
        stream = SurvivingStream(target)
        stream.write("lost")
        stream.flush()
        assert isinstance(stream.error, BrokenPipeError)
        assert not stream.was_lost
        assert stream.write("more") == 4


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_surviving_stream_of_a_full_disk_knows_that_text_was_lost() -> None:
    with open("/dev/full", "w", encoding="utf-8") as target:
        stream = SurvivingStream(target)
        stream.write("lost")
        stream.flush()
        assert isinstance(stream.error, OSError)
        assert stream.error.errno == errno.ENOSPC
        assert stream.was_lost


def test_surviving_stream_that_is_closed_or_missing_drops_text() -> None:
    closed = io.StringIO()
    closed.close()
    for target in (closed, None):
        stream = SurvivingStream(target)
        stream.write("lost")
        stream.flush()
        assert not stream.isatty()
        assert not stream.was_lost
