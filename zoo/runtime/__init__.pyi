from .classifier import Classifier as Classifier
from .classifier import Prediction as Prediction
from .classifier import load as load
from .pictures import Preparation as Preparation
from .pictures import open_picture as open_picture
