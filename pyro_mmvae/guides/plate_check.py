"""A check that the plates of guide and model have equal sizes, which Pyro itself does not make."""

from __future__ import annotations

import weakref
from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.replay_messenger import ReplayMessenger
from pyro.poutine.trace_messenger import TraceMessenger

from pyro_mmvae._compat import handler_stack, is_plate_site


class _Token:
    """An object that lives as long as the trace of one run of a guide."""


class PlateWatch(Messenger):
    """A handler that compares the size of the model's plate with the guide's when the model is replayed.

    Pyro runs the guide first and checks only that the two plates have an equal number of *indices*: a guide plate of
    the batch's size under a model plate of the data's size passes, and the ELBO is wrong by their ratio. On its first
    call in an inference the guide therefore leaves this handler at the bottom of Pyro's stack. It acts only on a model
    that replays this run of the guide, which it recognises by a token in the guide's site, and leaves the stack once it
    has seen the site or the guide's trace is gone.

    Args:
        guide: The guide, of which only a weak reference is kept.
        size: The size of the guide's plate.
        token: The token in the guide's site, of which only a weak reference is kept.
        num_modalities: The number of modalities of the experts, for the hint of the error; None if it is not known.
    """

    def __init__(self, guide: Any, size: int, token: _Token, num_modalities: int | None = None) -> None:
        super().__init__()
        self.num_modalities = num_modalities
        self.unguided = list[str]()
        self.guide, self.token, self.size = weakref.ref(guide), weakref.ref(token), size

    @classmethod
    def install(cls, guide: Any, size: int, num_modalities: int | None = None) -> dict[str, _Token]:
        """Put a watch at the bottom of the stack, if a guide is being traced.

        Args:
            guide: The guide that is being run.
            size: The size of its plate.
            num_modalities: The number of modalities of the experts, None if it is not known.

        Returns:
            Entries for the ``infer`` dictionary of the guide's site; none if no guide is being traced.
        """
        if not any(isinstance(handler, TraceMessenger) for handler in handler_stack()):
            return {}
        # One watch is enough, however many traces are kept. The guide does not hold it, so that it can be pickled.
        for handler in [h for h in handler_stack() if isinstance(h, cls) and h.guide() is guide]:
            handler.remove()
        token = _Token()
        watch = cls(guide, size, token, num_modalities)
        weakref.finalize(token, watch.remove)
        handler_stack().insert(0, watch)
        return {_TOKEN_KEY: token}

    def remove(self) -> None:
        """Remove this handler from the stack."""
        if self in handler_stack():
            handler_stack().remove(self)

    def _nodes_of_my_guide(self, site: str) -> Any:
        """Return the sites of the trace that the model replays if it is one of this run of the guide, else None."""
        token = self.token()
        for handler in handler_stack():
            if isinstance(handler, ReplayMessenger) and handler.trace is not None and site in handler.trace.nodes:
                infer: Any = handler.trace.nodes[site].get("infer") or {}
                if token is not None and infer.get(_TOKEN_KEY) is token:
                    return handler.trace.nodes
        return None

    def _pyro_sample(self, msg: Any) -> None:
        guide = self.guide()
        if guide is None:
            return
        nodes = self._nodes_of_my_guide(guide.site)
        if nodes is None:
            return
        if msg["name"] == guide.site:
            self.remove()
            self._check_plates_of_site(guide, [frame.name for frame in msg["cond_indep_stack"]])
            guide._plates_agree = True
        elif msg["name"] == guide.plate and is_plate_site(msg["fn"]):
            self._check_size_of_plate(guide, msg)
        elif guide.plate in {frame.name for frame in msg["cond_indep_stack"]}:
            self._check_site_is_not_missing(guide, msg, nodes)

    def _check_size_of_plate(self, guide: Any, msg: Any) -> None:
        if msg["fn"].size != self.size:
            hint = f"pass plate_size={msg['fn'].size} to the guide"
            self.remove()
            if self.num_modalities == msg["fn"].size:
                hint = (
                    "the experts may have their modality axis first, which must be second to last, as in (item, "
                    f"modality, latent); otherwise {hint}"
                )
            raise ValueError(
                f"BarycentricGuide: plate {guide.plate!r} has size {msg['fn'].size} in the model and {self.size} in "
                f"the guide, so their log probabilities would be scaled differently: {hint}"
            )

    def _check_site_is_not_missing(self, guide: Any, msg: Any, nodes: Any) -> None:
        """Check that no latent of the model that lacks a guide comes before an observation, in place of the site."""
        if not msg["is_observed"]:
            is_enumerated = bool((msg["infer"] or {}).get("enumerate"))
            if msg["name"] not in nodes and not is_enumerated and not is_plate_site(msg["fn"]):
                self.unguided.append(msg["name"])
        elif self.unguided:
            self.remove()
            names = ", ".join(map(repr, self.unguided))
            raise ValueError(
                f"BarycentricGuide: the model must have the latent site {guide.site!r} of the guide, got {names} "
                "instead, which no guide has: pass site= as in the model, or rename the site"
            )

    def _check_plates_of_site(self, guide: Any, plates: list[str]) -> None:
        if guide.plate not in plates:
            raise ValueError(
                f"BarycentricGuide: site {guide.site!r} of the model is not in a plate {guide.plate!r}, but in "
                f"{', '.join(map(repr, plates)) or 'no plate'}: pass plate= and dim= as in the model, or put the "
                "site into that plate"
            )


_TOKEN_KEY = "barycentric_guide_token"
