"""Constants of the severities 1 to 5, as published, in pixels unless said.

Read in ``make_cifar_c.py`` and ``make_imagenet_c.py`` of
https://github.com/hendrycks/robustness at commit 8190fe3 (Apache-2.0), the code
of Hendrycks and Dietterich, `Benchmarking neural network robustness to common
corruptions and perturbations <https://arxiv.org/abs/1903.12261>`_, 2019.
"""

NAMES = (
  'gaussian_noise',
  'shot_noise',
  'impulse_noise',
  'defocus_blur',
  'glass_blur',
  'motion_blur',
  'zoom_blur',
  'snow',
  'frost',
  'fog',
  'brightness',
  'contrast',
  'elastic_transform',
  'pixelate',
  'jpeg_compression',
)
EXTRA_NAMES = ('speckle_noise', 'gaussian_blur', 'spatter', 'saturate')

_CIFAR10_C = {
  # Standard deviation.
  'gaussian_noise': (0.04, 0.06, 0.08, 0.09, 0.10),
  # Photons of a white pixel.
  'shot_noise': (500, 250, 100, 75, 50),
  # Share of the values.
  'impulse_noise': (0.01, 0.02, 0.03, 0.05, 0.07),
  # Standard deviation as a share of the value.
  'speckle_noise': (0.06, 0.1, 0.12, 0.16, 0.2),
  # Radius, standard deviation of the anti-aliasing.
  'defocus_blur': ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
  # Standard deviation.
  'gaussian_blur': (0.4, 0.6, 0.7, 0.8, 1),
  # Standard deviation, greatest shift, rounds.
  'glass_blur': (
    (0.05, 1, 1),
    (0.25, 1, 1),
    (0.4, 1, 1),
    (0.25, 1, 2),
    (0.4, 1, 2),
  ),
  # Radius, standard deviation.
  'motion_blur': ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
  # End and step of the factors.
  'zoom_blur': (
    (1.06, 0.01),
    (1.11, 0.01),
    (1.16, 0.01),
    (1.21, 0.01),
    (1.26, 0.01),
  ),
  # Mean, standard deviation, zoom, threshold, radius, its deviation, share of
  # the image.
  'snow': (
    (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
    (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
    (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
    (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
    (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
  ),
  # Weight of the image, weight of the frost, scale of the texture.
  'frost': (
    (1, 0.2, 0.2),
    (1, 0.3, 0.2),
    (0.9, 0.4, 0.2),
    (0.85, 0.4, 0.2),
    (0.75, 0.45, 0.2),
  ),
  # Weight, decay a level.
  'fog': ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
  # Mean, deviation, blur, threshold, weight or blur of the mud, mud.
  'spatter': (
    (0.62, 0.1, 0.7, 0.7, 0.5, 0),
    (0.65, 0.1, 0.8, 0.7, 0.5, 0),
    (0.65, 0.3, 1, 0.69, 0.5, 0),
    (0.65, 0.1, 0.7, 0.69, 0.6, 1),
    (0.65, 0.1, 0.5, 0.68, 0.6, 1),
  ),
  # Added to V.
  'brightness': (0.05, 0.1, 0.15, 0.2, 0.3),
  # Factor.
  'contrast': (0.75, 0.5, 0.4, 0.3, 0.15),
  # Factor of S, added to S.
  'saturate': ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
  # Shift, its blur, jitter of the corners, each over the shorter side.
  'elastic_transform': (
    (0, 0, 0.08),
    (0.05, 0.2, 0.07),
    (0.08, 0.06, 0.06),
    (0.1, 0.04, 0.05),
    (0.1, 0.03, 0.03),
  ),
  # Side over the old side.
  'pixelate': (0.95, 0.9, 0.85, 0.75, 0.65),
  # Quality.
  'jpeg_compression': (80, 65, 58, 50, 40),
}

# The script multiplies by 244, for images of 224 pixels a side.
_ELASTIC = 244 / 224

_IMAGENET_C = {
  'gaussian_noise': (0.08, 0.12, 0.18, 0.26, 0.38),
  'shot_noise': (60, 25, 12, 5, 3),
  'impulse_noise': (0.03, 0.06, 0.09, 0.17, 0.27),
  'speckle_noise': (0.15, 0.2, 0.35, 0.45, 0.6),
  'defocus_blur': ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
  'gaussian_blur': (1, 2, 3, 4, 6),
  'glass_blur': ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
  'motion_blur': ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
  'zoom_blur': (
    (1.11, 0.01),
    (1.16, 0.01),
    (1.21, 0.02),
    (1.26, 0.02),
    (1.31, 0.03),
  ),
  'snow': (
    (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
  ),
  'frost': (
    (1, 0.4, 1),
    (0.8, 0.6, 1),
    (0.7, 0.7, 1),
    (0.65, 0.7, 1),
    (0.6, 0.75, 1),
  ),
  'fog': ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
  'spatter': (
    (0.65, 0.3, 4, 0.69, 0.6, 0),
    (0.65, 0.3, 3, 0.68, 0.6, 0),
    (0.65, 0.3, 2, 0.68, 0.5, 0),
    (0.65, 0.3, 1, 0.65, 1.5, 1),
    (0.67, 0.4, 1, 0.65, 1.5, 1),
  ),
  'brightness': (0.1, 0.2, 0.3, 0.4, 0.5),
  'contrast': (0.4, 0.3, 0.2, 0.1, 0.05),
  'saturate': ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
  'elastic_transform': tuple(
    tuple(_ELASTIC * value for value in values)
    for values in (
      (2, 0.7, 0.1),
      (2, 0.08, 0.2),
      (0.05, 0.01, 0.02),
      (0.07, 0.01, 0.02),
      (0.12, 0.01, 0.02),
    )
  ),
  'pixelate': (0.6, 0.5, 0.4, 0.3, 0.25),
  'jpeg_compression': (25, 18, 15, 10, 7),
}

TABLES = {'cifar10_c': _CIFAR10_C, 'imagenet_c': _IMAGENET_C}
