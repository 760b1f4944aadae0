"""Sets of corrupted images follow from images, arguments and seed alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax import corruptions
from rrl_jax.corruptions import _corrupted_sets
from rrl_jax.errors import DataError

CHEAP = {'names': ('brightness', 'contrast'), 'severities': (1, 4)}


@pytest.fixture
def images(rng):
  return rng.integers(0, 256, (5, 16, 16, 1), np.uint8)


@pytest.fixture
def noise(monkeypatch):
  """In the place of corruptions: noise by id, and a record of the calls."""
  calls = []

  def corrupt(images, key, *, name, severity, table, example_ids):
    calls.append((name, severity, table, images.shape, example_ids.tolist()))
    draw = lambda i: jax.random.uniform(
      jax.random.fold_in(key, i), images.shape[1:]
    )
    return jnp.clip(images + jax.vmap(draw)(jnp.asarray(example_ids)), 0, 1)

  monkeypatch.setattr(_corrupted_sets, 'corrupt', corrupt)
  return calls


def made(images, **kw):
  return {
    (name, severity): x
    for name, severity, x in corruptions.corrupted_sets(images, **kw)
  }


def test_each_set_is_what_corrupt_uint8_makes_in_this_order(images):
  found = made(images, **CHEAP)
  assert list(found) == [
    ('brightness', 1),
    ('brightness', 4),
    ('contrast', 1),
    ('contrast', 4),
  ]
  for (name, severity), x in found.items():
    expected = corruptions.corrupt_uint8(images, name, severity=severity)
    np.testing.assert_array_equal(x, expected)


@pytest.mark.fast
def test_floats_of_bytes_give_what_the_bytes_give(images):
  as_floats = made(images.astype(np.float32) / 255, **CHEAP)
  for place, x in made(images, **CHEAP).items():
    np.testing.assert_array_equal(as_floats[place], x)


def test_an_example_is_keyed_by_its_id_whatever_the_chunk(
  images, noise, monkeypatch
):
  kw = {'names': ('fog',), 'severities': (2,), 'seed': 3}
  whole = made(images, **kw)['fog', 2]
  some = np.array([3, 1])
  alone = made(images[some], example_ids=some, **kw)['fog', 2]
  np.testing.assert_array_equal(alone, whole[some])
  monkeypatch.setattr(_corrupted_sets, '_CHUNK', 2)
  np.testing.assert_array_equal(made(images, **kw)['fog', 2], whole)
  shapes = {shape for _, _, _, shape, _ in noise[2:]}
  assert shapes == {(2, 16, 16, 1)}  # One program for all chunks.
  other = made(images, **(kw | {'seed': 4}))['fog', 2]
  assert (other != whole).any()


def test_small_images_are_enlarged_and_averaged_back(noise, monkeypatch):
  small = np.arange(2 * 8 * 9, dtype=np.uint8).reshape(2, 8, 9, 1)
  kw = {'names': ('fog',), 'severities': (1,)}
  made(small, **kw)
  assert noise[0][3] == (2, 16, 18, 1)
  assert corruptions.enlargement(small.shape) == 2
  assert corruptions.enlargement((3, 16, 40, 1)) == 1
  assert corruptions.enlargement((3, 28, 5, 1)) == 4
  same = lambda images, key, **kw: images
  monkeypatch.setattr(_corrupted_sets, 'corrupt', same)
  np.testing.assert_array_equal(made(small, **kw)['fog', 1], small)


@pytest.mark.fast
def test_a_cache_gives_the_same_and_asks_for_nothing_twice(
  images, noise, tmp_path
):
  kw = {'names': ('fog', 'snow'), 'severities': (1, 5)}
  plain = made(images, **kw)
  folder = tmp_path / 'deep' / 'cache'
  first = made(images, cache=folder, **kw)
  calls = len(noise)
  second = made(images, cache=folder, **kw)
  assert len(noise) == calls
  assert len(list(folder.iterdir())) == 4
  for place, x in plain.items():
    np.testing.assert_array_equal(first[place], x)
    np.testing.assert_array_equal(second[place], x)


@pytest.mark.fast
@pytest.mark.parametrize('change', ['images', 'seed', 'ids', 'table'])
def test_a_cache_tells_what_differs_apart(images, noise, tmp_path, change):
  kw = {'names': ('fog',), 'severities': (1,), 'cache': tmp_path}
  made(images, **kw)
  other = {
    'seed': {'seed': 1},
    'ids': {'example_ids': np.arange(5) + 1},
    'table': {'table': 'imagenet_c'},
  }.get(change, {})
  made(255 - images if change == 'images' else images, **kw, **other)
  assert len(noise) == 2
  assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.fast
def test_a_damaged_cache_file_is_made_anew(images, noise, tmp_path):
  kw = {'names': ('fog',), 'severities': (1,), 'cache': tmp_path}
  whole = made(images, **kw)['fog', 1]
  (path,) = tmp_path.iterdir()
  path.write_bytes(path.read_bytes()[:50])
  np.testing.assert_array_equal(made(images, **kw)['fog', 1], whole)
  np.testing.assert_array_equal(np.load(path), whole)


@pytest.mark.fast
def test_a_cache_that_cannot_be_written_is_one_line(images, noise, tmp_path):
  file = tmp_path / 'file'
  file.write_text('')
  kw = {'names': ('fog',), 'severities': (1,)}
  with pytest.raises(DataError, match='cannot keep corrupted images') as error:
    made(images, cache=file, **kw)
  assert '\n' not in str(error.value)


@pytest.mark.fast
def test_ids_of_another_length_are_refused(images):
  with pytest.raises(ValueError, match='example_ids have shape'):
    made(images, example_ids=np.arange(3), **CHEAP)
