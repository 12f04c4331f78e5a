"""The VOC colours, against entries published with the data set."""

from deconvseg.images.palette import VOC_CLASSES, palette_for


def test_known_colours() -> None:
    palette = palette_for(256)
    assert palette[:4] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    colours = dict(zip(VOC_CLASSES, palette, strict=False))
    assert colours["cat"] == (64, 0, 0)
    assert colours["motorbike"] == (64, 128, 128)
    assert colours["person"] == (192, 128, 128)
    assert colours["tvmonitor"] == (0, 64, 128)
    assert len(set(palette)) == 256 and len(VOC_CLASSES) == 21
    assert palette[255] == (224, 224, 192)  # the border that VOC leaves unlabelled
