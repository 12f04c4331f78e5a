"""What several rooms' tests share: a tiny network, a data set of shapes, a web server with faults."""

import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from deconvseg.images.palette import VOC_CLASSES, palette_for
from deconvseg.network.checkpoint import NetworkHeader, save_network
from deconvseg.network.deconvnet import DeconvNet
from deconvseg.network.fcn8s import FCN8s


@pytest.fixture(scope="session")
def tiny_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with VOC's classes and random weights: fast, and different photos get different labels."""
    torch.manual_seed(0)
    network = DeconvNet(classes=21, crop_size=32, widths=(8, 8, 8, 8, 8), bottleneck=16)
    for module in network.modules():
        if isinstance(module, torch.nn.ConvTranspose2d):
            torch.nn.init.kaiming_normal_(module.weight)
    network.seg_score.weight.data.normal_(std=2)
    with torch.no_grad():
        for _ in range(20):  # BatchNorm's statistics
            network.train()(torch.rand(16, 3, 8, 8).repeat_interleave(4, 2).repeat_interleave(4, 3) * 4 - 2)
    path = tmp_path_factory.mktemp("network") / "tiny.safetensors"
    save_network(path, network, NetworkHeader(VOC_CLASSES, palette_for(21), scale=1 / 64))
    return path


@pytest.fixture(scope="session")
def tiny_fcn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An FCN-8s with VOC's classes and random weights, for ensembles with `tiny_network`."""
    torch.manual_seed(1)
    network = FCN8s(classes=21, side=64, widths=(8, 8, 8, 8, 8), bottleneck=16, head_kernel=3, padding=1)
    for name, module in network.named_modules():
        if "score" in name and isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, std=0.5)
    path = tmp_path_factory.mktemp("fcn") / "fcn.safetensors"
    save_network(path, network, NetworkHeader(VOC_CLASSES, palette_for(21), scale=1 / 64))
    return path


@pytest.fixture(scope="session")
def make_shapes() -> Callable[..., Path]:
    """Writes a VOC folder of photos with discs (class 1) and squares (class 2) on grey noise."""

    def make(root: Path, train: int = 24, val: int = 8) -> Path:
        for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
            (root / part).mkdir(parents=True)
        rng = np.random.default_rng(0)
        names = [f"shape{i:03}" for i in range(train + val)]
        for name in names:
            width, height = rng.integers(60, 90, 2).tolist()
            noise = rng.integers(90, 140, (height, width, 3), dtype=np.uint8)
            photo, mask = Image.fromarray(noise), Image.new("P", (width, height))
            mask.putpalette([channel for colour in palette_for(21) for channel in colour])
            x, y = rng.integers(2, 25, 2).tolist()
            side = int(rng.integers(20, 34))
            label = int(rng.integers(1, 3))
            box, colour = (x, y, x + side, y + side), ((220, 40, 40), (40, 60, 220))[label - 1]
            for canvas, fill in ((photo, colour), (mask, label)):
                draw = ImageDraw.Draw(canvas)
                (draw.ellipse if label == 1 else draw.rectangle)(box, fill=fill)
            photo.save(root / "JPEGImages" / f"{name}.jpg", quality=95)
            mask.save(root / "SegmentationClass" / f"{name}.png")
        for split, members in (("train", names[:train]), ("val", names[train:])):
            (root / "ImageSets/Segmentation" / f"{split}.txt").write_text("\n".join(members) + "\n")
        return root

    return make


class Mirror:
    """A web server on this machine whose faults a test chooses.

    Attributes:
        requests: (path, Range header) of each request, in order.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.requests: list[tuple[str, str | None]] = []
        self.pages: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.closed = threading.Event()

    def send(
        self,
        path: str,
        content: bytes,
        *,
        ranges: bool = True,
        cuts: Sequence[int] = (),
        announced: bool = True,
        status: int = 200,
        shift: int = 0,
    ) -> str:
        """Serve `content` at `path` and return its address.

        Args:
            path: starting with a slash.
            content: the whole file.
            ranges: whether a Range header is heeded.
            cuts: the first answer ends after so many bytes, the second after the next number, and so on.
            announced: whether the length is told.
            status: of an answer with the whole file.
            shift: an answer to a Range starts so many bytes too late.
        """
        left = list(cuts)

        def page(handler: BaseHTTPRequestHandler) -> None:
            wanted = handler.headers.get("Range") if ranges else None
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) + shift if wanted else 0
            if wanted and start >= len(content):
                handler.send_error(416)
                return
            handler.send_response(206 if wanted else status)
            if wanted:
                handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if announced:
                handler.send_header("Content-Length", str(len(content) - start))
            handler.end_headers()
            handler.wfile.write(content[start : start + left.pop(0)] if left else content[start:])

        self.pages[path] = page
        return self.address + path

    def redirect(self, path: str, target: str) -> str:
        """Send those who ask for `path` to `target`."""

        def page(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(302)
            handler.send_header("Location", target)
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        self.pages[path] = page
        return self.address + path

    def hang(self, path: str, after: bytes | None = None, size: int = 0) -> str:
        """Never answer, or stop `after` these bytes of `size`."""

        def page(handler: BaseHTTPRequestHandler) -> None:
            if after is not None:
                handler.send_response(200)
                handler.send_header("Content-Length", str(size))
                handler.end_headers()
                handler.wfile.write(after)
            self.closed.wait(60)

        self.pages[path] = page
        return self.address + path


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """A `Mirror` for one test."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            mirror.requests.append((self.path, self.headers.get("Range")))
            if self.path in mirror.pages:
                mirror.pages[self.path](self)
            else:
                self.send_error(404)

        def log_message(self, *arguments: object) -> None:
            pass

    monkeypatch.setenv("no_proxy", "*")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    mirror = Mirror(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield mirror
    mirror.closed.set()
    server.shutdown()
    server.server_close()
    thread.join()
