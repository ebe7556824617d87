"""The record of a failure mode that the figures of an evaluation show."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """A failure mode that the figures show, with advice.

    Attributes:
        mode: The name of the failure mode, shared by all modalities, pairs and subsets that show it.
        what: A description of what was observed, with numbers.
        advice: The remedies to try, by names of settings and options; empty if the finding is a note that restricts the
            meaning of other figures and not a failure.
    """

    mode: str
    what: str
    advice: str
