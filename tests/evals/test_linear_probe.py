"""The probe is the solution of the stated problem, not merely close to good."""

import numpy as np
import pytest
from scipy import optimize, special
from sklearn import linear_model

from rrl_jax.errors import DataError
from rrl_jax.evals import linear_probe


def problem(rng, size=300, dim=8, num_classes=4):
  labels = rng.integers(0, num_classes, size)
  centres = rng.normal(size=(num_classes, dim))
  features = centres[labels] + rng.normal(0, 1.0, (size, dim))
  return features.astype(np.float32), labels.astype(np.int32)


def reference(features, labels, num_classes, l2):
  """The minimiser in float64, by SciPy."""
  x, n = features.astype(np.float64), len(labels)
  onehot = np.eye(num_classes)[labels]

  def value_and_grad(flat):
    w, b = flat[:-num_classes].reshape(-1, num_classes), flat[-num_classes:]
    logits = x @ w + b
    loss = np.mean(
      special.logsumexp(logits, axis=1) - (onehot * logits).sum(1)
    ) + 0.5 * l2 * np.sum(w**2)
    residual = (special.softmax(logits, axis=1) - onehot) / n
    grad = np.concatenate([(x.T @ residual + l2 * w).ravel(), residual.sum(0)])
    return loss, grad

  found = optimize.minimize(
    value_and_grad,
    np.zeros((x.shape[1] + 1) * num_classes),
    jac=True,
    method='L-BFGS-B',
    options={'maxiter': 10_000, 'gtol': 1e-9, 'ftol': 1e-15},
  )
  return found.x[:-num_classes].reshape(-1, num_classes), found.x[-num_classes:]


@pytest.mark.parametrize('l2', [1e-1, 1e-3])
def test_fit_equals_the_minimiser_in_float64(rng, l2):
  features, labels = problem(rng)
  w, b, iterations = linear_probe.fit(
    features, labels, num_classes=4, l2=l2, tol=1e-6
  )
  want_w, want_b = reference(features, labels, 4, l2)
  assert w.shape == (8, 4)
  assert 0 < iterations < 200
  np.testing.assert_allclose(w, want_w, atol=2e-3 * np.abs(want_w).max())
  np.testing.assert_allclose(b, want_b, atol=2e-3)


def test_fit_equals_scikit_learn(rng):
  features, labels = problem(rng)
  l2 = 0.01
  w, b, _ = linear_probe.fit(features, labels, num_classes=4, l2=l2, tol=1e-6)
  model = linear_model.LogisticRegression(
    C=1 / (len(labels) * l2), tol=1e-8, max_iter=5000
  ).fit(features.astype(np.float64), labels)
  probs = special.softmax(np.asarray(features @ w + b[None]), axis=1)
  np.testing.assert_allclose(probs, model.predict_proba(features), atol=1e-3)


def test_tolerance_bounds_the_gradient(rng):
  features, labels = problem(rng)
  for tol in (1e-2, 1e-4):
    w, b, iterations = linear_probe.fit(
      features, labels, num_classes=4, l2=1e-3, tol=tol
    )
    residual = special.softmax(features @ w + b[None], axis=1)
    residual -= np.eye(4)[labels]
    grad = features.T @ residual / len(labels) + 1e-3 * np.asarray(w)
    assert max(np.abs(grad).max(), np.abs(residual.mean(0)).max()) <= 1.1 * tol
    assert iterations > 1


def test_separable_and_unpenalised_data_stay_finite(rng):
  features, labels = problem(rng)
  features[:, 0] = 100 * (labels - 1.5)
  w, b, _ = linear_probe.fit(features, labels, num_classes=4, l2=0.0, tol=1e-5)
  assert np.isfinite(np.asarray(w)).all()
  predicted = np.argmax(features @ w + b[None], axis=1)
  np.testing.assert_array_equal(predicted, labels)


def test_classes_without_an_example_are_not_predicted(rng):
  features, labels = problem(rng)
  for present in (0, 1):  # One class, then two of four.
    some = np.minimum(labels, present)
    w, b, _ = linear_probe.fit(features, some, num_classes=4, l2=0.1, tol=1e-4)
    assert np.isfinite(np.asarray(w)).all()
    predicted = np.argmax(features @ w + b[None], axis=1)
    assert set(predicted.tolist()) == set(range(present + 1))


@pytest.mark.fast
@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'labels': np.array([0, 1, 4])}, 'outside of 3 classes'),
    ({'labels': np.array([0, -1, 2])}, 'outside of 3 classes'),
    ({'labels': np.array([0, 1])}, r'need labels \[N\]'),
    ({'labels': np.array([0.0, 1.0, 2.0])}, 'must be integers'),
    ({'l2': -1.0}, 'l2=-1.0 must be >= 0'),
    ({'tol': 0.0}, 'tol=0.0 > 0'),
  ],
)
def test_wrong_input_is_refused(change, message):
  kw = {'labels': np.array([0, 1, 2]), 'num_classes': 3, 'l2': 0.1, 'tol': 1e-3}
  kw |= change
  with pytest.raises(ValueError, match=message):
    linear_probe.fit(np.ones((3, 2), np.float32), kw.pop('labels'), **kw)


@pytest.mark.fast
@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(value, rng):
  features, labels = problem(rng)
  features[7, 2] = value
  said = 'features of 1 of 300 training examples are not finite, first in row 7'
  with pytest.raises(DataError, match=said):
    linear_probe.fit(features, labels, num_classes=4, l2=0.1, tol=1e-4)
  with pytest.raises(DataError, match=said):
    linear_probe.standardise(features)
  clean, asked = linear_probe.standardise(features[8:], features[:8])
  assert np.isfinite(clean).all()
  assert not np.isfinite(asked[7, 2])  # Only its own row.
  assert np.isfinite(asked[:7]).all()


def test_a_gradient_that_is_nan_is_not_within_the_tolerance(monkeypatch):
  monkeypatch.setattr(linear_probe, 'MAX_ITERATIONS', 3)
  features = np.array([[3e38], [3e38], [-3e38], [-3e38]], np.float32)
  *_, iterations = linear_probe.fit(
    features, np.array([0, 0, 1, 1]), num_classes=2, l2=0.1, tol=1e-4
  )
  assert iterations == 3


@pytest.mark.fast
def test_standardise_uses_the_training_moments(rng):
  train = rng.normal(3, 2, (50, 4)).astype(np.float32)
  train[:, 2] = 7.1  # Constant.
  test = rng.normal(0, 1, (9, 4)).astype(np.float32)
  a, b = linear_probe.standardise(train, test)
  moving = [0, 1, 3]
  np.testing.assert_allclose(a.mean(0), 0, atol=1e-5)
  np.testing.assert_allclose(a[:, moving].std(0), 1, atol=1e-5)
  np.testing.assert_allclose(b[:, 2], test[:, 2] - 7.1, atol=1e-5)
  want = (test - train.mean(0)) / train.std(0)
  np.testing.assert_allclose(b[:, moving], want[:, moving], atol=1e-4)
