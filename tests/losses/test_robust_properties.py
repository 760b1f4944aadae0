"""What holds for the robust and the distributional losses on any batch.

Examples are drawn by hypothesis, always the same ones; each group of losses
is compiled once for a dtype, for value and gradient together.
"""

import functools

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrl_jax import losses
from tests.tiers import first

B, K = 6, 3  # Examples; classes, concepts or groups.
DISTANCES = ('sq_l2', 'l2', 'cosine', 'unit_l2', 'kl')
DIVERGENCES = ('kl', 'l2', 'chi2', 'cvar', 'ot')
COST = np.array([[0, 1, 2], [1, 0, 1], [2, 1, 0]], 'f')
SIZES = [0.0, 1.0, -1.0, 1e-3, 30.0, -88.0, 1e4, -1e4]
SIGNED = ('adversarial_loss_bound', 'linear_loss_gap', 'margin_certificate')
DTYPES = pytest.mark.parametrize('dtype', first([jnp.float32, jnp.bfloat16]))


def settings(max_examples):
  return hypothesis.settings(
    max_examples=max_examples,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[hypothesis.Phase.generate],  # To shrink a failure takes minutes.
  )


def numbers(*shape, sizes=tuple(SIZES), span=50.0):
  """Arrays that are ordinary, extreme, or all the same."""
  size = int(np.prod(shape))
  number = st.sampled_from(sizes) | st.floats(-span, span, width=32)
  many = st.lists(number, min_size=size, max_size=size)
  same = number.map(lambda v: [v] * size)
  return (many | same).map(lambda v: np.asarray(v, 'f').reshape(shape))


def integers(low, high):
  """Labels or groups: any, or all the same."""
  number = st.integers(low, high)
  many = st.lists(number, min_size=B, max_size=B)
  return (many | number.map(lambda v: [v] * B)).map(np.asarray)


def masks():
  return integers(0, 1).map(lambda v: v.astype(bool))


def priors():
  """Distributions, some of them with an empty concept."""
  weight = st.sampled_from([0.0, 1e-8, 1e-3, 1.0, 3.0])
  parts = st.lists(weight, min_size=K, max_size=K).filter(any)
  return parts.map(lambda v: np.asarray(v, 'f') / np.sum(v))


def finite(tree, note=''):
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    assert np.isfinite(np.asarray(leaf, 'f')).all(), (note, path)


def on_simplex(p, dtype, note=''):
  p = np.asarray(p, 'f')
  low = dtype == jnp.bfloat16
  assert (p >= 0).all(), note
  np.testing.assert_allclose(
    p.sum(), 1, atol=2e-2 if low else 2e-5, err_msg=note
  )


def slopes(fun, *args):
  """``(values, gradients)`` of a function of any shape."""
  out, pull = jax.vjp(fun, *args)
  return out, pull(jnp.ones_like(out))


# Clean against attacked.


@functools.cache
def robust(dtype):
  def run(logits, adv, labels, where, kernel):
    logits, adv = logits.astype(dtype), adv.astype(dtype)
    out = {}
    for fun in (losses.trades, losses.mart, losses.alp):
      out[fun.__name__] = slopes(
        lambda a, b, fun=fun: fun(a, b, labels, where=where), logits, adv
      )
    for name in DISTANCES:
      out[name] = slopes(
        lambda a, b, name=name: losses.feature_shift(
          a, b, distance=name, where=where
        ),
        logits,
        adv,
      )
    out['adversarial_loss_bound'] = slopes(
      lambda a, b: losses.adversarial_loss_bound(
        a, jnp.abs(b), lipschitz=3.0, where=where
      ),
      logits[:, 0],
      adv[:, 0],
    )
    out['margin_certificate'] = slopes(
      lambda a, w: losses.margin_certificate(a, w, labels=labels, where=where),
      logits,
      kernel.astype(dtype),
    )
    out['linear_loss_gap'] = slopes(
      lambda a, b: losses.linear_loss_gap(
        a, b, labels, kernel[:K], jnp.zeros(K), where=where
      ),
      logits,
      adv,
    )
    out['virtual_adversarial'] = slopes(
      lambda a: losses.virtual_adversarial(
        lambda z: z @ kernel[:K].astype(z.dtype),
        jax.random.key(0),
        a,
        epsilon=0.5,
        where=where,
      ),
      logits,
    )
    return out

  return jax.jit(run)


KERNELS = numbers(K + 1, K, sizes=(0.0, 1.0, 1e-8, 1e-20, -1e-30, 100.0))


@DTYPES
@settings(30)
@hypothesis.given(
  numbers(B, K), numbers(B, K), integers(-1, K), masks(), KERNELS
)
def test_robust_losses_are_finite_and_masked_on_any_batch(
  dtype, logits, adv, labels, where, kernel
):
  dirty = np.where(where[:, None], logits, np.nan)
  out = jax.device_get(
    robust(dtype)(jnp.asarray(dirty), jnp.asarray(adv), labels, where, kernel)
  )
  labelled = where & (labels >= 0) & (labels < K)
  for name, (values, grads) in out.items():
    finite((values, grads), name)
    needs = name in ('trades', 'mart', 'alp', 'margin_certificate')
    counts = labelled if needs or name == 'linear_loss_gap' else where
    values, grads = np.asarray(values, 'f'), np.asarray(grads[0], 'f')
    assert not values[~counts].any(), name
    assert not grads[~counts].any(), name
    if name not in SIGNED:
      assert values.min() >= -1e-4 * (1 + np.abs(values).max()), name
    if name in ('cosine', 'unit_l2'):
      assert values.max() <= 2 + 1e-5, name
  # An attack that moves nothing costs nothing, and pulls at nothing.
  out = jax.device_get(robust(dtype)(logits, logits, labels, where, kernel))
  for name in (*DISTANCES, 'linear_loss_gap'):
    values, grads = out[name]
    np.testing.assert_allclose(np.asarray(values, 'f'), 0, atol=1e-6)
    if name in DISTANCES:
      np.testing.assert_array_equal(np.asarray(grads[0], 'f'), 0, name)


@settings(30)
@hypothesis.given(
  numbers(B, K, sizes=(0.0, 1.0, -1.0), span=8.0),
  numbers(B, K, sizes=(0.0, 1.0, -1.0), span=8.0),
  integers(-1, K),
  masks(),
  st.permutations(range(B)),
  st.permutations(range(K)),
  st.sampled_from([-32.0, 0.5, 16.0]),
)
def test_robust_losses_follow_their_rows_and_classes(
  logits, adv, labels, where, rows, classes, shift
):
  logits, adv = (np.round(x * 256) / 256 for x in (logits, adv))
  kernel = np.arange(4.0 * K).reshape(4, K).astype('f') % 5 - 2
  run = robust(jnp.float32)
  want = jax.device_get(run(logits, adv, labels, where, kernel))
  rows, classes = np.asarray(rows), np.asarray(classes)
  got = jax.device_get(
    run(logits[rows], adv[rows], labels[rows], where[rows], kernel)
  )
  for name in want:
    if name != 'virtual_adversarial':  # Its draws belong to positions.
      (values, grads), (moved, moved_grads) = want[name], got[name]
      np.testing.assert_allclose(
        moved, values[rows], rtol=1e-5, atol=1e-5, err_msg=name
      )
      np.testing.assert_allclose(
        moved_grads[0], grads[0][rows], rtol=1e-4, atol=1e-4, err_msg=name
      )
  # Classes have no order; a common offset of the logits is none.
  inverse = np.argsort(classes)
  renamed = np.where((labels >= 0) & (labels < K), inverse[labels % K], labels)
  named = jax.device_get(
    run(logits[:, classes], adv[:, classes], renamed, where, kernel)
  )
  moved = jax.device_get(
    run(logits + shift, adv + shift, labels, where, kernel)
  )
  for name in ('trades', 'mart', 'alp', 'sq_l2', 'l2', 'kl', 'cosine'):
    for other in (named, moved) if name != 'cosine' else (named,):
      np.testing.assert_allclose(
        other[name][0], want[name][0], rtol=1e-4, atol=1e-4, err_msg=name
      )


# Over concepts.


def divergence_kw(name):
  if name == 'ot':
    return {'divergence': 'ot', 'cost': jnp.asarray(COST), 'epsilon': 0.5}
  return {'divergence': name}


@functools.cache
def concepts(dtype):
  def run(risks, prior, probs, temperature, level, radius):
    risks, prior, probs = (x.astype(dtype) for x in (risks, prior, probs))
    weights = jnp.arange(1.0, K + 1).astype(dtype)
    out = {'probs': {}, 'value': {}, 'grads': {}}
    for name in DIVERGENCES:
      kw = divergence_kw(name)
      tau = level if name == 'cvar' else temperature
      fixed = functools.partial(
        losses.concept_best_response, prior=prior, temperature=tau, **kw
      )
      out['probs'][name] = fixed(risks)
      out['probs'][f'{name} in ball'], _ = losses.concept_best_response_in_ball(
        risks, prior, radius=radius, **kw
      )
      out['grads'][name] = jax.grad(
        lambda v, fixed=fixed: jnp.sum(weights * fixed(v))
      )(risks)
      out['value'][name] = jax.value_and_grad(
        lambda v, tau, kw=kw: losses.concept_robust_risk(
          v, prior, temperature=tau, **kw
        ),
        (0, 1),
      )(risks, tau)
    for fun in (
      losses.concept_mirror_ascent,
      losses.concept_projected_ascent,
    ):
      step = functools.partial(
        fun, probs, prior=prior, step_size=0.1, temperature=0.5
      )
      out['probs'][fun.__name__] = step(risks)
      out['grads'][fun.__name__] = jax.grad(
        lambda v, step=step: jnp.sum(weights * step(v))
      )(risks)
    return out

  return jax.jit(run)


@pytest.mark.full
@DTYPES
@settings(40)
@hypothesis.given(
  numbers(K, sizes=(*SIZES, 1e30, -1e30)),
  priors(),
  priors(),
  st.sampled_from([1e-4, 0.3, 1e4]),
  st.sampled_from([1e-3, 0.3, 1.0]),
  st.sampled_from([0.0, 0.05, 10.0]),
)
def test_concept_responses_are_distributions_with_finite_slopes(
  dtype, risks, prior, probs, temperature, level, radius
):
  out = jax.device_get(
    concepts(dtype)(risks, prior, probs, temperature, level, radius)
  )
  finite(out)
  for name, p in out['probs'].items():
    on_simplex(p, dtype, name)
    word = name.split()[0]
    if word in ('kl', 'chi2', 'cvar', 'concept_mirror_ascent'):
      assert not np.asarray(p, 'f')[prior == 0].any(), name
  for name, (_, (grad, _)) in out['value'].items():
    np.testing.assert_allclose(
      np.asarray(grad, 'f'),
      np.asarray(out['probs'][name], 'f'),
      atol=1e-2 if dtype == jnp.bfloat16 else 1e-5,
      err_msg=name,
    )


@settings(40)
@hypothesis.given(
  numbers(K, sizes=(0.0, 1.0, -1.0), span=8.0),
  priors(),
  priors(),
  st.permutations(range(K)),
  st.sampled_from([-32.0, 0.5, 16.0]),
)
def test_concept_responses_know_no_order_and_no_common_offset(
  risks, prior, probs, order, shift
):
  risks = np.round(risks * 256) / 256
  rest = 0.3, 0.4, 0.05
  run = concepts(jnp.float32)
  want = jax.device_get(run(risks, prior, probs, *rest))
  moved = jax.device_get(run(risks + np.float32(shift), prior, probs, *rest))
  for name, p in want['probs'].items():
    np.testing.assert_allclose(moved['probs'][name], p, atol=1e-5)
  for name, (value, _) in want['value'].items():
    np.testing.assert_allclose(
      moved['value'][name][0], value + shift, atol=1e-4
    )
  order = np.asarray(order)
  turned = jax.device_get(run(risks[order], prior[order], probs[order], *rest))
  for name, p in want['probs'].items():
    if 'ot' not in name:  # Its cost knows the concepts.
      np.testing.assert_allclose(turned['probs'][name], p[order], atol=1e-5)


# Over examples.

RISKS = {
  'cvar': {'level': 0.4},
  'cvar penalty': {'level': 0.2, 'penalty': 0.5},
  'chi2 penalty': {'penalty': 0.5},
  'chi2 radius': {'radius': 0.3},
}


def of(kind, name):
  return getattr(losses, f'{name.split()[0]}_{kind}')


@functools.cache
def examples(dtype):
  def run(values, eta, where):
    values = values.astype(dtype)
    out = {}
    for name, kw in RISKS.items():
      kw = kw | {'where': where}
      out[name] = {
        'weights': of('weights', name)(values, **kw),
        'risk': slopes(lambda v, n=name, kw=kw: of('risk', n)(v, **kw), values),
        'dual': slopes(
          lambda v, e, n=name, kw=kw: (
            jnp.sum(of('dual', n)(v, e, **kw))
            / (jnp.maximum(where.sum(), 1) if n[:4] == 'cvar' else 1)
          ),
          values,
          eta,
        ),
      }
    return out

  return jax.jit(run)


@DTYPES
@settings(40)
@hypothesis.given(
  numbers(B), masks(), st.sampled_from([-1e4, -1.0, 0.0, 2.0, 1e4])
)
def test_risks_lie_between_mean_and_maximum_and_below_their_duals(
  dtype, values, where, eta
):
  dirty = np.where(where, values, np.inf)
  out = jax.device_get(examples(dtype)(jnp.asarray(dirty), eta, where))
  finite(out)
  rows = np.asarray(jnp.asarray(values, dtype), float)[where]
  for name, parts in out.items():
    weights = np.asarray(parts['weights'], float)
    assert (weights >= 0).all(), name
    assert not weights[~where].any(), name
    assert not np.asarray(parts['risk'][1][0], 'f')[~where].any(), name
    if not where.any():
      assert parts['risk'][0] == 0
      continue
    np.testing.assert_allclose(weights[where].mean(), 1, rtol=1e-4)
    # A higher loss never counts less.
    order = np.argsort(rows)
    assert (np.diff(weights[where][order]) >= -1e-4).all(), name
    slack = 1e-4 * (1 + np.abs(rows).max())
    risk = float(parts['risk'][0])
    assert rows.mean() - slack <= risk <= rows.max() + slack, name
    over = 1e-4 * (1 + np.abs(rows).max() + abs(eta))
    assert float(parts['dual'][0]) >= risk - over, name


@settings(40)
@hypothesis.given(
  numbers(B, sizes=(0.0, 1.0, -1.0), span=8.0),
  masks(),
  st.permutations(range(B)),
  st.sampled_from([-32.0, 0.5, 16.0]),
)
def test_risks_know_no_order_and_carry_a_common_offset(
  values, where, order, shift
):
  values = np.round(values * 256) / 256
  order, run = np.asarray(order), examples(jnp.float32)
  want = jax.device_get(run(values, 0.5, where))
  moved = jax.device_get(
    run(values + np.float32(shift), np.float32(0.5 + shift), where)
  )
  turned = jax.device_get(run(values[order], 0.5, where[order]))
  for name, parts in want.items():
    weights = parts['weights']
    np.testing.assert_allclose(moved[name]['weights'], weights, atol=2e-5)
    np.testing.assert_allclose(
      turned[name]['weights'], weights[order], atol=2e-5
    )
    if where.any():
      for kind in ('risk', 'dual'):
        value = parts[kind][0]
        np.testing.assert_allclose(turned[name][kind][0], value, atol=1e-4)
        np.testing.assert_allclose(
          moved[name][kind][0], value + shift, atol=2e-4
        )


# Over groups, over noise, and over transport.


@functools.cache
def games(dtype):
  def run(values, costs, groups, where, probs, multiplier):
    values, costs = values.astype(dtype), jnp.abs(costs).astype(dtype)
    state = losses.GroupDROState(probs)
    moved = losses.group_dro_update(
      state, values, groups, step_size=0.5, where=where
    )
    armor = losses.ArmorState(multiplier)
    kw = {'cost_weight': 0.1, 'where': where}
    pairs = jnp.stack([values, costs], axis=1)
    noise = {'penalty': multiplier, 'epsilon': 0.1, 'where': where}
    return {
      'state': moved.probs,
      'group_dro': slopes(
        lambda v: losses.group_dro(v, groups, moved, where=where), values
      ),
      'armor_weights': losses.armor_weights(values, costs, armor, **kw),
      'armor_risk': slopes(
        lambda v, m: losses.armor_risk(
          v, costs, losses.ArmorState(m), radius=0.5, **kw
        ),
        values,
        multiplier,
      ),
      'armor_update': losses.armor_update(
        armor, values, costs, radius=0.5, **kw
      ),
      'sinkhorn_dro': slopes(lambda v: losses.sinkhorn_dro(v, **noise), pairs),
      'sinkhorn_dro_multilevel': slopes(
        lambda v: losses.sinkhorn_dro_multilevel(v, **noise), pairs
      ),
    }

  return jax.jit(run)


@DTYPES
@settings(40)
@hypothesis.given(
  numbers(B),
  numbers(B, span=5.0),
  integers(-1, K),
  masks(),
  priors(),
  st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_games_over_groups_noise_and_transport_are_finite(
  dtype, values, costs, groups, where, probs, multiplier
):
  dirty = np.where(where, values, np.nan)
  out = jax.device_get(
    games(dtype)(jnp.asarray(dirty), costs, groups, where, probs, multiplier)
  )
  finite(out)
  on_simplex(out['state'], jnp.float32)
  weights = out['armor_weights']
  assert (weights >= 0).all()
  if where.any():
    np.testing.assert_allclose(weights[where].mean(), 1, rtol=1e-4)
  assert out['armor_update'].multiplier > 0
  grouped = where & (groups >= 0) & (groups < K)
  rows = {'group_dro': grouped}
  for name in ('group_dro', 'sinkhorn_dro', 'sinkhorn_dro_multilevel'):
    value, grads = (np.asarray(x, 'f') for x in (out[name][0], out[name][1][0]))
    counts = rows.get(name, where)
    assert not value[~counts].any(), name
    assert not grads[~counts].any(), name
  # The adversary's value is that of the groups' means, present ones alone.
  rounded = np.asarray(jnp.asarray(values, dtype), float)
  want = sum(
    out['state'][g] * rounded[where & (groups == g)].mean()
    for g in range(K)
    if (where & (groups == g)).any()
  )
  low = dtype == jnp.bfloat16
  got = np.asarray(out['group_dro'][0], float).sum() / max(where.sum(), 1)
  scale = 1 + np.abs(rounded).max()
  np.testing.assert_allclose(got, want, atol=(2e-2 if low else 1e-5) * scale)
  # A soft maximum lies between the mean and the largest.
  costs = np.abs(np.asarray(jnp.asarray(costs, dtype), float))
  pairs, soft = np.stack([rounded, costs], axis=1), out['sinkhorn_dro'][0]
  slack = 1e-5 * (1 + np.abs(pairs).max())
  assert (soft >= pairs.mean(1) - slack)[where].all()
  assert (soft <= pairs.max(1) + slack)[where].all()


@settings(30)
@hypothesis.given(
  numbers(B, sizes=(0.0, 1.0, -1.0), span=8.0),
  integers(-1, K),
  masks(),
  st.permutations(range(B)),
  st.permutations(range(K)),
  st.sampled_from([-32.0, 0.5, 16.0]),
)
def test_games_know_no_order_and_no_common_offset(
  values, groups, where, order, names, shift
):
  values = np.round(values * 256) / 256
  probs = np.array([0.2, 0.3, 0.5], 'f')
  costs, order, names = np.abs(values)[::-1], np.asarray(order), list(names)
  run = games(jnp.float32)
  want = jax.device_get(run(values, costs, groups, where, probs, 1.0))
  turned = jax.device_get(
    run(values[order], costs[order], groups[order], where[order], probs, 1.0)
  )
  for name in ('group_dro', 'sinkhorn_dro'):
    np.testing.assert_allclose(
      turned[name][0], want[name][0][order], atol=1e-4, err_msg=name
    )
  np.testing.assert_allclose(turned['state'], want['state'], atol=1e-5)
  inside = (groups >= 0) & (groups < K)
  renamed = np.where(inside, np.argsort(names)[groups % K], groups)
  other = jax.device_get(run(values, costs, renamed, where, probs[names], 1.0))
  np.testing.assert_allclose(other['state'], want['state'][names], atol=1e-5)
  np.testing.assert_allclose(
    other['group_dro'][0], want['group_dro'][0], atol=1e-4
  )
  moved = jax.device_get(
    run(values + np.float32(shift), costs, groups, where, probs, 1.0)
  )
  np.testing.assert_allclose(
    moved['armor_weights'], want['armor_weights'], atol=1e-4
  )
  if where.any():
    np.testing.assert_allclose(
      moved['armor_risk'][0], want['armor_risk'][0] + shift, atol=1e-4
    )
