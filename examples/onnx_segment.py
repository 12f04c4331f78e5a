"""Segments a photo with an exported network and without torch: onnx_segment.py NET.onnx PHOTO MASK.png"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

network, photo_file, mask_file = sys.argv[1:]
session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
about = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}

with Image.open(photo_file) as opened:
    photo = ImageOps.exif_transpose(opened).convert("RGB")
left, top = (round((max(photo.size) - side) / 2) for side in photo.size)
right, bottom = (round((max(photo.size) + side) / 2) for side in photo.size)
square = Image.new("RGB", (left + right, top + bottom))  # black where the photo is not
square.paste(photo, (left, top))
small = [one.convert("F").resize((about["side"],) * 2, Image.Resampling.BILINEAR) for one in square.split()]
crop = (np.dstack(small) - about["mean"]) * about["scale"]

(scores,) = session.run(["scores"], {"crops": crop.transpose(2, 0, 1)[None].astype(np.float32)})[0]
scores = np.stack([Image.fromarray(one).resize(square.size, Image.Resampling.BILINEAR) for one in scores])
labels = scores.argmax(0).astype(np.uint8)[top : top + photo.height, left : left + photo.width]

mask = Image.fromarray(labels)
mask.putpalette([channel for colour in about["palette"] for channel in colour])
mask.save(mask_file)
print(*(about["classes"][label] for label in np.unique(labels)), sep=", ")
