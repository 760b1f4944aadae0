import numpy as np
import pytest

from rrl_jax import corruptions
from rrl_jax.errors import ConfigError, DataError


@pytest.fixture
def images(rng):
  return rng.integers(0, 256, (20, 4, 4, 3)).astype(np.uint8)


@pytest.fixture
def folder(tmp_path, images):
  np.save(tmp_path / 'fog.npy', images)
  np.save(tmp_path / 'labels.npy', np.tile([3, 1, 0, 2], 5).astype(np.uint8))
  return tmp_path


@pytest.mark.fast
def test_a_severity_is_its_fifth_of_the_file(folder, images):
  for severity in range(1, 6):
    found, labels = corruptions.read_published(folder, 'fog', severity=severity)
    np.testing.assert_array_equal(
      found, images[4 * severity - 4 : 4 * severity]
    )
    np.testing.assert_array_equal(labels, [3, 1, 0, 2])
    assert labels.dtype == np.int32


@pytest.mark.fast
@pytest.mark.parametrize(
  ('name', 'severity', 'message'),
  [('rain', 1, "name='rain': one of"), ('fog', 6, 'severity=6')],
)
def test_what_is_unknown_is_told(folder, name, severity, message):
  with pytest.raises(ConfigError, match=message):
    corruptions.read_published(folder, name, severity=severity)


@pytest.mark.fast
@pytest.mark.parametrize(
  ('file', 'array', 'message'),
  [
    ('fog.npy', np.zeros((20, 4, 4, 3)), 'float64, not'),
    ('fog.npy', np.zeros((20, 4), np.uint8), r'shape \(20, 4\)'),
    ('fog.npy', np.zeros((15, 4, 4, 3), np.uint8), '15 images.*20 labels'),
    ('labels.npy', np.zeros((20, 2), np.uint8), 'labels.npy has shape'),
    ('labels.npy', np.zeros(20), 'float64, not'),
  ],
)
def test_what_does_not_fit_is_told(folder, file, array, message):
  np.save(folder / file, array)
  with pytest.raises(DataError, match=message):
    corruptions.read_published(folder, 'fog', severity=1)


@pytest.mark.fast
def test_what_cannot_be_read_is_told(folder):
  with pytest.raises(DataError, match=r'snow.npy does not exist'):
    corruptions.read_published(folder, 'snow', severity=1)
  (folder / 'snow.npy').write_bytes(b'no array')
  with pytest.raises(DataError, match='snow.npy cannot be read'):
    corruptions.read_published(folder, 'snow', severity=1)
  np.save(folder / 'frost.npy', np.array([{}]), allow_pickle=True)
  with pytest.raises(DataError, match='frost.npy cannot be read'):
    corruptions.read_published(folder, 'frost', severity=1)
