"""The web page of the explorer, one session per visitor, served by Panel."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from html import escape
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pyro_mmvae._printable import one_line
from pyro_mmvae.explore.explorer import MAX_WEIGHT, Explorer
from pyro_mmvae.explore.markup import STYLE, cards_html, components_html, disagreement_html, posterior_html

_MAX_PIXELS = 50_000_000  # of an uploaded image


def serve(explorer: Explorer, *, port: int = 0, show: bool = True, announce: Callable[[str], object] = print) -> None:
    """Serve the explorer on this machine until it is interrupted.

    The server listens to 127.0.0.1 only, and takes connections of pages from there only.

    Args:
        explorer: The run and its items.
        port: The port; 0 (default) for a free one.
        show: If True (default), the page is opened in a browser.
        announce: A function that receives the address of the page.

    Raises:
        ImportError: If Panel is not installed.
        OSError: If the port is in use.
    """
    panel = import_panel()
    panel.extension(notifications=False)
    server = panel.serve(
        lambda: Page(explorer, panel).layout, port=port, address="127.0.0.1", show=False, start=False, threaded=False,
        title=f"{explorer.run.path.name} - pyro-mmvae", verbose=False, admin=False,
    )  # fmt: skip
    server.start()
    address = f"http://127.0.0.1:{server.port}/"
    announce(address)
    if show:
        server.io_loop.add_callback(server.show, "/")
    try:
        server.io_loop.start()
    finally:
        server.stop()


def import_panel() -> Any:
    """Return the module ``panel``.

    Raises:
        ImportError: If it is not installed; the message names the extra.
    """
    try:
        import panel  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise ImportError(
            "explore needs the package panel, which is not installed: pip install 'pyro-mmvae[explore]'"
        ) from error
    return panel


class Page:
    """The widgets and the pictures of one visitor.

    Args:
        explorer: The run and its items.
        panel: The module ``panel``, which :func:`import_panel` returns.

    Attributes:
        layout: The page, for Panel to show.
        milliseconds: The time that the last update took.
    """

    def __init__(self, explorer: Explorer, panel: Any) -> None:
        self._items, self._shown, self._panel = explorer, explorer, panel
        self._pending = False
        self._images = {name: _is_image(explorer, name) for name in explorer.names}
        self.milliseconds = 0.0
        widgets = panel.widgets
        last = max(len(explorer) - 1, 1)
        self.item = widgets.IntSlider(name="Item", start=0, end=last, value=0, disabled=len(explorer) == 1)
        self.given = widgets.CheckBoxGroup(name="Given", options=[], value=[])
        self.aggregation = widgets.Select(
            name="Aggregation", options=list(explorer.aggregations()), value=explorer.aggregation
        )
        self.weights = {
            name: widgets.FloatSlider(name=f"λ of {name}", start=0, end=MAX_WEIGHT, step=0.1, value=1.0, width=260)
            for name in explorer.names
        }
        self.draws = widgets.IntSlider(name="Draws", start=1, end=8, value=4)
        self.seed = widgets.IntInput(name="Seed of the draws", start=0, value=0)
        self.reset = widgets.Button(name="Reset weights", button_type="default")
        self.uploads = {name: self._upload_widget(name) for name in explorer.names}
        self.use = widgets.Button(name="Explore this item", button_type="primary")
        self.leave = widgets.Button(name="Back to the items of the data", button_type="default", disabled=True)
        self.message = panel.pane.HTML("", sizing_mode="stretch_width")
        self.view = panel.pane.HTML("", styles={"flex": "1 1 560px", "min-width": "300px"})
        self._watch()
        self._choose_item()
        self.layout = self._lay_out()

    def _upload_widget(self, name: str) -> Any:
        """Return the widget that takes a value of a modality: a file for images, otherwise a text."""
        widgets = self._panel.widgets
        if self._images[name]:
            return widgets.FileInput(accept=".png,.jpg,.jpeg,.webp,.bmp", name=name, width=260)
        hint = "a text" if self._items.run.is_text(name) else "numbers, separated by spaces or commas"
        return widgets.TextAreaInput(name=name, placeholder=hint, rows=2, width=260)

    def _watch(self) -> None:
        self.item.param.watch(lambda _: self._choose_item(), "value")
        for widget in (self.given, self.aggregation, self.draws, self.seed, *self.weights.values()):
            widget.param.watch(lambda _: self._schedule(), "value")
        self.reset.on_click(lambda _: self._reset_weights())
        self.use.on_click(lambda _: self._use_upload())
        self.leave.on_click(lambda _: self._leave_upload())

    def _lay_out(self) -> Any:
        pn = self._panel
        run = self._items.run
        title = f"{STYLE}<div class='mm'><h1 style='font-size:20px;margin:4px 0'>{escape(run.path.name)}</h1>"
        title += (
            f"<div class='note'>trained with {escape(self._items.aggregation)}; {len(self._items)} items</div></div>"
        )
        upload = [
            part for name, widget in self.uploads.items()
            for part in ([pn.pane.HTML(f"<b>{escape(name)}</b>"), widget] if self._images[name] else [widget])
        ]  # fmt: skip
        controls = pn.Column(
            self.item, pn.pane.HTML("<b>Given</b>"), self.given, self.aggregation, self.draws, self.seed,
            pn.Card(*self.weights.values(), self.reset, title="Weights of experts", collapsed=False, width=300),
            pn.Card(*upload, self.use, self.leave, title="Another item", collapsed=True, width=300),
            self.message, width=320,
        )  # fmt: skip
        return pn.Column(
            pn.pane.HTML(title), pn.FlexBox(controls, self.view, flex_wrap="wrap", gap="20px"),
            sizing_mode="stretch_width", margin=12,
        )  # fmt: skip

    def _choose_item(self) -> None:
        """Offer the modalities of the item, all of them given at first or those that were given before."""
        has = list(self._shown.present(self._position))
        kept = [name for name in self.given.value if name in has] if self.given.options else has
        with self._panel.io.hold():
            self.given.param.update(options=has, value=kept)
        self._schedule()

    @property
    def _position(self) -> int:
        return 0 if self._shown is not self._items else int(self.item.value)

    def _schedule(self) -> None:
        """Draw once all events that have arrived are handled, so that a moving slider is not followed step by step."""
        document = self._panel.state.curdoc
        if document is None or document.session_context is None:
            self.update()
        elif not self._pending:
            self._pending = True
            document.add_next_tick_callback(self.update)

    def update(self) -> None:
        """Compute the posterior and the draws again, and show them."""
        self._pending = False
        start = time.perf_counter()
        weights = {name: float(slider.value) for name, slider in self.weights.items()}
        is_own = all(weight == 1 for weight in weights.values())
        try:
            view = self._shown.view(
                self._position, self.given.value, aggregation=self.aggregation.value,
                weights=None if is_own else weights, draws=self.draws.value, seed=max(int(self.seed.value or 0), 0),
            )  # fmt: skip
        except ValueError as error:
            self._say(str(error))
            return
        self._say("")
        observed: dict[str, Any] = dict(self._shown.observed(self._position))
        texts = {}
        for name in self._items.names:
            if self._items.run.is_text(name):
                texts[name] = self._texts(name, view.generated[name])
                if name in observed:
                    observed[name] = self._texts(name, observed[name][None])[0]
        labels = self._shown.labels
        label = "" if labels is None or not labels[self._position] else f", class {escape(str(labels[self._position]))}"
        which = "the uploaded item" if self._shown is not self._items else f"item {self._position}{label}"
        given = escape(", ".join(view.given)) or "nothing: the prior"
        self.milliseconds = 1e3 * (time.perf_counter() - start)
        self.view.object = (
            f"{STYLE}<div class='mm'><h2>{which}, given {given}</h2>"
            f"{cards_html(view, observed, self._images, texts)}"
            f"<h2>Posterior of {escape(str(self.aggregation.value))}</h2><div class='note'>Mean and one standard "
            f"deviation; the coordinates that differ most from the standard Gaussian</div>"
            f"{posterior_html(view, self._items.names)}"
            f"<h2>Components</h2>{components_html(view.components, view.num_components)}"
            f"<h2>Disagreement</h2>{disagreement_html(view.disagreement)}"
            f"<div class='note'>computed in {self.milliseconds:.0f} ms</div></div>"
        )

    def _texts(self, name: str, tokens: NDArray[Any]) -> list[str]:
        return [str(text) for text in self._items.run.texts(name, torch.from_numpy(np.asarray(tokens)))]

    def _reset_weights(self) -> None:
        for slider in self.weights.values():
            slider.value = 1.0

    def _use_upload(self) -> None:
        """Explore the item that was uploaded, or say what is wrong with it."""
        try:
            values = {name: self._read(name, widget.value) for name, widget in self.uploads.items() if widget.value}
            if not values:
                raise ValueError("a value of at least one modality must be given")
            self._shown = self._items.upload(values)
        except (ValueError, TypeError) as error:
            self._say(str(error))
            return
        self.leave.disabled, self.item.disabled = False, True
        self.given.options = []
        self._choose_item()

    def _leave_upload(self) -> None:
        self._shown = self._items
        self.leave.disabled, self.item.disabled = True, len(self._items) == 1
        self.given.options = []
        self._choose_item()

    def _read(self, name: str, content: Any) -> Any:
        """Return the uploaded value of a modality as an array or a list of one item."""
        shape = tuple(self._items.run.state["shapes"][name])
        if self._images[name]:
            return _read_image(name, content, shape)
        if self._items.run.is_text(name):
            return [str(content)]
        try:
            numbers = np.array([float(word) for word in str(content).replace(",", " ").split()], dtype=np.float32)
        except ValueError as error:
            raise ValueError(f"{name} must be numbers, separated by spaces or commas: {error}") from None
        if numbers.size != int(np.prod(shape)):
            raise ValueError(f"{name} must be {int(np.prod(shape))} numbers, got {numbers.size}")
        return numbers.reshape(1, *shape)

    def _say(self, text: str) -> None:
        self.message.object = f"<div role='alert' style='color:#a3260c'>{escape(text)}</div>" if text else ""


def _is_image(explorer: Explorer, name: str) -> bool:
    shape = tuple(explorer.run.state["shapes"][name])
    return len(shape) == 3 and shape[0] in {1, 3}


def _read_image(name: str, content: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return an uploaded image in the size and with the channels that the model takes, `(1, *shape)`."""
    channels, height, width = shape
    try:
        with Image.open(io.BytesIO(content), formats=["png", "jpeg", "webp", "bmp"]) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise ValueError(f"{name} must be an image of at most {_MAX_PIXELS:,} pixels, got {image.size}")
            pixels = image.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        reason = one_line(error, 120)
        raise ValueError(f"{name} must be a PNG, JPEG, WebP or BMP image: {reason}") from None
    array = np.asarray(pixels, dtype=np.uint8)
    return (array[None] if channels == 1 else array.transpose(2, 0, 1))[None].copy()
