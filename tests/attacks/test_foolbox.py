"""PGD and fast gradient steps end where foolbox ends, on the same model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rrl_jax import attacks
from tests.tiers import first

foolbox = pytest.importorskip('foolbox')

RNG = np.random.default_rng(17)
W = RNG.normal(size=(12, 16)).astype('f')
V = RNG.normal(size=(16, 10)).astype('f')
X = RNG.uniform(0.4, 0.6, size=(16, 12)).astype('f')


def net(x):
  return jnp.tanh((x - 0.5) @ W) @ V


Y = jnp.asarray(net(X).argmax(axis=1))


def loss_fn(z):
  return optax.softmax_cross_entropy_with_integer_labels(net(z), Y)


def ours(epsilon, **kw):
  return jax.jit(
    functools.partial(
      attacks.pgd,
      loss_fn,
      None,
      epsilon=epsilon,
      random_start=False,
      unroll=1,
      **kw,
    )
  )(X)


# The radii stay inside the box: at its faces foolbox scales, then clips.
@pytest.mark.full
@pytest.mark.parametrize(
  ('name', 'norm', 'epsilon', 'step_size', 'num_steps'),
  first(
    [
      ('LinfPGD', 'linf', 0.3, 0.06, 12),
      ('L2PGD', 'l2', 0.39, 0.1, 12),
      ('LinfFastGradientAttack', 'linf', 0.3, 0.3, 1),
      ('L2FastGradientAttack', 'l2', 0.39, 0.39, 1),
    ]
  ),
)
def test_ends_where_foolbox_ends(name, norm, epsilon, step_size, num_steps):
  kw = {'random_start': False}
  if num_steps > 1:
    kw |= {'abs_stepsize': step_size, 'steps': num_steps}
  model = foolbox.models.JAXModel(net, bounds=(0, 1))
  theirs, _, success = getattr(foolbox.attacks, name)(**kw)(
    model, jnp.asarray(X), Y, epsilons=epsilon
  )
  z = ours(epsilon, norm=norm, step_size=step_size, num_steps=num_steps)
  close = np.abs(np.asarray(z) - np.asarray(theirs)).max(axis=1) < 1e-4
  assert close.mean() >= 0.9  # A sign may flip where a gradient vanishes.
  np.testing.assert_allclose(
    loss_fn(z).sum(), loss_fn(jnp.asarray(theirs)).sum(), rtol=1e-3
  )
  wrong = np.asarray(net(z).argmax(axis=1)) != np.asarray(Y)
  assert (wrong == np.asarray(success)).mean() >= 0.9
  assert wrong.any()


@pytest.mark.fast
@pytest.mark.parametrize(
  ('name', 'norm', 'epsilon'),
  [
    ('LinfFastGradientAttack', 'linf', 0.07),
    ('LinfFastGradientAttack', 'linf', 0.3),
    ('L2FastGradientAttack', 'l2', 0.2),
    ('L2FastGradientAttack', 'l2', 0.39),
  ],
)
def test_the_fast_gradient_method_is_theirs(name, norm, epsilon):
  model = foolbox.models.JAXModel(net, bounds=(0, 1))
  theirs, _, success = getattr(foolbox.attacks, name)()(
    model, jnp.asarray(X), Y, epsilons=epsilon
  )
  z = jax.jit(
    functools.partial(attacks.fgsm, loss_fn, epsilon=epsilon, norm=norm)
  )(X)
  np.testing.assert_allclose(z, theirs, atol=1e-5)
  wrong = np.asarray(net(z).argmax(axis=1)) != np.asarray(Y)
  np.testing.assert_array_equal(wrong, success)
