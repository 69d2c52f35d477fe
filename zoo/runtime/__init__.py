"""Classify pictures with an exported file: numpy, Pillow and the file's engine, no torch.

classifier = runtime.load("repvgg_a0.onnx")
probabilities = classifier.predict(["cat.jpg", "coffee.jpg"])  # (2, classes)
for best in classifier.top(probabilities[0]): print(best.name, best.probability)
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
