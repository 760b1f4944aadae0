"""What holds for every loss: transforms, meshes, low precision, few imports."""

import subprocess
import sys

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from rrl_jax import losses
from tests.contracts import Results, mesh_of

B, K = 16, 3
PROBS = jnp.array([0.2, 0.3, 0.5])
PRIOR = jnp.array([0.5, 0.25, 0.25])
COST = 1.0 - jnp.eye(K)
HEAD = jnp.arange(18.0).reshape(6, K) % 5 - 2

# name -> function of (rows [B], images [B, 6], ids [B], small [K]); only the
# first three have a batch axis.
CALLS = {
  'adapt_gamma': lambda r, x, i, v: losses.adapt_gamma(
    v[0], v[1], radius=0.1, rate=0.3
  ),
  'class_conditional_infonce': lambda r, x, i, v: (
    losses.class_conditional_infonce(x, i % 2, i, temperature=v[0])
  ),
  'collapse_threshold': lambda r, x, i, v: jnp.float32(
    losses.collapse_threshold(2, 8, 0.5)
  ),
  'concept_best_response': lambda r, x, i, v: losses.concept_best_response(
    v, PRIOR.astype(v.dtype), temperature=0.5
  ),
  'concept_best_response_in_ball': lambda r, x, i, v: (
    losses.concept_best_response_in_ball(v, PRIOR.astype(v.dtype), radius=0.1)
  ),
  'concept_divergence': lambda r, x, i, v: losses.concept_divergence(
    jax.nn.softmax(v), PRIOR, divergence='ot', cost=COST, epsilon=0.5
  ),
  'concept_mirror_ascent': lambda r, x, i, v: losses.concept_mirror_ascent(
    PROBS.astype(v.dtype), v, PRIOR, step_size=0.1, temperature=0.5
  ),
  'concept_projected_ascent': lambda r, x, i, v: (
    losses.concept_projected_ascent(
      PROBS.astype(v.dtype), v, PRIOR, step_size=0.1, temperature=0.5
    )
  ),
  'concept_risk_estimate': lambda r, x, i, v: losses.concept_risk_estimate(
    losses.ConceptRiskState(v, jnp.ones_like(v))
  ),
  'concept_risk_init': lambda r, x, i, v: losses.concept_risk_init(K, v.dtype),
  'concept_risk_update': lambda r, x, i, v: losses.concept_risk_update(
    losses.ConceptRiskState(v, jnp.ones_like(v)), r, i, rate=0.3
  ),
  'concept_robust_risk': lambda r, x, i, v: losses.concept_robust_risk(
    v, PRIOR.astype(v.dtype), temperature=0.5, divergence='chi2'
  ),
  'embedding_geometry': lambda r, x, i, v: losses.embedding_geometry(
    x, i, num_classes=K
  ),
  'grad_cache': lambda r, x, i, v: losses.grad_cache(
    lambda scale, x: scale * jnp.sum(jnp.tanh(x), axis=1),
    v[0],
    x,
    chunk_size=B,
  ),
  'importance_weights': lambda r, x, i, v: losses.importance_weights(
    jax.nn.softmax(v), PRIOR, i
  ),
  'infonce': lambda r, x, i, v: losses.infonce(x, i, temperature=v[0]),
  'l2_normalize': lambda r, x, i, v: losses.l2_normalize(x)[:, 0],
  'spread': lambda r, x, i, v: losses.spread(
    x, i % 2, i, alpha=v[0], temperature=v[1], tile_size=4
  ),
  'spread_of': lambda r, x, i, v: losses.spread_of(x, i, num_classes=K),
  'step_scale': lambda r, x, i, v: losses.step_scale(jnp.abs(r), rule='rms'),
  'supervised_contrastive': lambda r, x, i, v: losses.supervised_contrastive(
    x, i, i, temperature=v[0], tile_size=8
  ),
  'transport_cost': lambda r, x, i, v: losses.transport_cost(x, x * x),
  # Robust: clean against attacked.
  'adversarial_loss_bound': lambda r, x, i, v: losses.adversarial_loss_bound(
    r, r * r, lipschitz=0.5
  ),
  'alp': lambda r, x, i, v: losses.alp(x, x * x, i),
  'feature_shift': lambda r, x, i, v: losses.feature_shift(
    x, x * x, distance='unit_l2'
  ),
  'head_lipschitz': lambda r, x, i, v: losses.head_lipschitz(v[None, :]),
  'linear_loss_gap': lambda r, x, i, v: losses.linear_loss_gap(
    x, x * x, i, HEAD.astype(x.dtype), v
  ),
  'margin_certificate': lambda r, x, i, v: losses.margin_certificate(
    x @ HEAD.astype(x.dtype), HEAD, labels=i
  ),
  'mart': lambda r, x, i, v: losses.mart(x, x * x, i),
  'pinsker_loss_bound': lambda r, x, i, v: losses.pinsker_loss_bound(
    r, r * r, max_loss=3.0
  ),
  'trades': lambda r, x, i, v: losses.trades(x, x * x, i),
  'virtual_adversarial': lambda r, x, i, v: losses.virtual_adversarial(
    lambda z: z @ HEAD.astype(z.dtype),
    jax.random.key(0),
    x,
    epsilon=0.5,
    example_ids=i,
  ),
  # Distributional: over groups, over examples, over noise.
  'armor_init': lambda r, x, i, v: losses.armor_init(v[0]),
  'armor_risk': lambda r, x, i, v: losses.armor_risk(
    r, r * r, losses.ArmorState(v[0]), cost_weight=0.1, radius=0.5
  ),
  'armor_update': lambda r, x, i, v: losses.armor_update(
    losses.ArmorState(v[0]), r, r * r, cost_weight=0.1, radius=0.5
  ),
  'armor_weights': lambda r, x, i, v: losses.armor_weights(
    r, r * r, losses.ArmorState(v[0]), cost_weight=0.1
  ),
  'chi2_dual': lambda r, x, i, v: losses.chi2_dual(r, v[0], radius=0.5),
  'chi2_multilevel': lambda r, x, i, v: losses.chi2_multilevel(r, radius=0.5),
  'chi2_risk': lambda r, x, i, v: losses.chi2_risk(r, penalty=0.5),
  'chi2_threshold_update': lambda r, x, i, v: losses.chi2_threshold_update(
    losses.RiskThresholdState(v[0]), r, step_size=0.1, penalty=0.5
  ),
  'chi2_weights': lambda r, x, i, v: losses.chi2_weights(r, radius=0.2),
  'cvar_dual': lambda r, x, i, v: losses.cvar_dual(r, 1.0, level=0.5),
  'cvar_multilevel': lambda r, x, i, v: losses.cvar_multilevel(
    r, level=0.3, base_size=2, level_prob=0.5
  ),
  'cvar_risk': lambda r, x, i, v: losses.cvar_risk(r, level=0.3),
  'cvar_threshold_update': lambda r, x, i, v: losses.cvar_threshold_update(
    losses.RiskThresholdState(v[0]), r, step_size=0.1, level=0.3
  ),
  'cvar_weights': lambda r, x, i, v: losses.cvar_weights(
    r, level=0.3, penalty=0.5
  ),
  'example_weights_init': lambda r, x, i, v: losses.example_weights_init(
    K, v.dtype
  ),
  'example_weights_update': lambda r, x, i, v: losses.example_weights_update(
    losses.ExampleWeightsState(jax.nn.softmax(v)),
    r,
    i,
    step_size=0.1,
    level=0.5,
  ),
  'group_dro': lambda r, x, i, v: losses.group_dro(
    r, i, losses.GroupDROState(v)
  ),
  'group_dro_init': lambda r, x, i, v: losses.group_dro_init(K, v.dtype),
  'group_dro_update': lambda r, x, i, v: losses.group_dro_update(
    losses.GroupDROState(v), r, i
  ),
  'multilevel_probs': lambda r, x, i, v: jnp.asarray(
    losses.multilevel_probs(3), v.dtype
  ),
  'estimate_noise_rate': lambda r, x, i, v: losses.estimate_noise_rate(r),
  'label_log_probabilities': lambda r, x, i, v: losses.label_log_probabilities(
    x, i
  ),
  'risk_threshold_init': lambda r, x, i, v: losses.risk_threshold_init(v[0]),
  'sinkhorn_dro': lambda r, x, i, v: losses.sinkhorn_dro(
    x, penalty=2.0, epsilon=0.1
  ),
  'sinkhorn_dro_init': lambda r, x, i, v: losses.sinkhorn_dro_init(v[0]),
  'sinkhorn_dro_multilevel': lambda r, x, i, v: losses.sinkhorn_dro_multilevel(
    x[:, :4], penalty=2.0, epsilon=0.1
  ),
  'sinkhorn_dro_risk': lambda r, x, i, v: losses.sinkhorn_dro_risk(
    x, losses.SinkhornDROState(v[0]), epsilon=0.1, radius=0.02
  ),
  'sinkhorn_dro_samples': lambda r, x, i, v: losses.sinkhorn_dro_samples(
    jax.random.key(0), x, epsilon=0.1, num_samples=2, example_ids=i
  ),
  'sinkhorn_dro_update': lambda r, x, i, v: losses.sinkhorn_dro_update(
    losses.SinkhornDROState(v[0]), x, epsilon=0.1, radius=0.02
  ),
  # Label noise.
  'active_passive': lambda r, x, i, v: losses.active_passive(x, i),
  'beta_log_weight': lambda r, x, i, v: losses.beta_log_weight(
    -r, -r * r, alpha=1.7, eta=2.0
  ),
  'bootstrapping': lambda r, x, i, v: losses.bootstrapping(x, i),
  'derivative_manipulation': lambda r, x, i, v: losses.derivative_manipulation(
    x, i, lambda log_p, log_rest: 0.7 * log_p + log_rest
  ),
  'early_learning_init': lambda r, x, i, v: losses.early_learning_init(
    4, 6, v.dtype
  ),
  'early_learning_regularization': lambda r, x, i, v: (
    losses.early_learning_regularization(x, i, jax.nn.softmax(x * x))
  ),
  'early_learning_update': lambda r, x, i, v: losses.early_learning_update(
    losses.EarlyLearningState(jnp.full((B, 6), 0.1)), x, i
  )[1],
  'emphasis_log_weight': lambda r, x, i, v: losses.emphasis_log_weight(
    -r, -r * r, focus=0.5, spread=8.0
  ),
  'emphasis_weight': lambda r, x, i, v: losses.emphasis_weight(
    r / 3, focus=0.5, spread=8.0
  ),
  'exponential_log_weight': lambda r, x, i, v: losses.exponential_log_weight(
    -r, -r * r, spread=8.0
  ),
  'focal': lambda r, x, i, v: losses.focal(x, i),
  'generalized_cross_entropy': lambda r, x, i, v: (
    losses.generalized_cross_entropy(x, i)
  ),
  'gradient_rescaling': lambda r, x, i, v: losses.gradient_rescaling(
    x, i, focus=0.5, spread=8.0
  ),
  'improved_mean_absolute_error': lambda r, x, i, v: (
    losses.improved_mean_absolute_error(x, i, normalization='none')
  ),
  'label_probability': lambda r, x, i, v: losses.label_probability(x, i),
  'mean_absolute_error': lambda r, x, i, v: losses.mean_absolute_error(x, i),
  'mixup_inputs': lambda r, x, i, v: losses.mixup_inputs(x, i % 2, r / 3),
  'mixup_loss': lambda r, x, i, v: losses.mixup_loss(
    losses.focal, x, i, i % 2, r / 3
  ),
  'mixup_pairs': lambda r, x, i, v: losses.mixup_pairs(
    jax.random.key(0), B, alpha=0.5
  ),
  'mixup_targets': lambda r, x, i, v: losses.mixup_targets(
    i, i % 2, r / 3, num_classes=K
  ),
  'normal_log_weight': lambda r, x, i, v: losses.normal_log_weight(
    -r, -r * r, mode=0.3, spread=8.0
  ),
  'normalized_cross_entropy': lambda r, x, i, v: (
    losses.normalized_cross_entropy(x, i)
  ),
  'normalized_focal': lambda r, x, i, v: losses.normalized_focal(x, i),
  'normalized_generalized_cross_entropy': lambda r, x, i, v: (
    losses.normalized_generalized_cross_entropy(x, i)
  ),
  'rescaling_weights': lambda r, x, i, v: losses.rescaling_weights(
    losses.focal, x, i, lambda log_p, log_rest: 0.7 * log_p + log_rest
  ),
  'reverse_cross_entropy': lambda r, x, i, v: losses.reverse_cross_entropy(
    x, i
  ),
  'symmetric_cross_entropy': lambda r, x, i, v: losses.symmetric_cross_entropy(
    x, i
  ),
  'truncated_generalized_cross_entropy': lambda r, x, i, v: (
    losses.truncated_generalized_cross_entropy(x, i, threshold=0.1)
  ),
}
TYPES = {
  'ArmorState',
  'ConceptRiskState',
  'EarlyLearningState',
  'EmbeddingGeometry',
  'ExampleWeightsState',
  'GroupDROState',
  'NoiseEstimate',
  'RiskThresholdState',
  'SinkhornDROState',
}
PER_EXAMPLE = {
  'active_passive',
  'adversarial_loss_bound',
  'alp',
  'beta_log_weight',
  'bootstrapping',
  'cvar_dual',
  'early_learning_regularization',
  'early_learning_update',
  'emphasis_log_weight',
  'emphasis_weight',
  'exponential_log_weight',
  'feature_shift',
  'focal',
  'generalized_cross_entropy',
  'grad_cache',
  'importance_weights',
  'improved_mean_absolute_error',
  'l2_normalize',
  'label_probability',
  'linear_loss_gap',
  'margin_certificate',
  'mart',
  'mean_absolute_error',
  'normal_log_weight',
  'normalized_cross_entropy',
  'normalized_focal',
  'normalized_generalized_cross_entropy',
  'pinsker_loss_bound',
  'reverse_cross_entropy',
  'sinkhorn_dro',
  'sinkhorn_dro_multilevel',
  'sinkhorn_dro_samples',
  'symmetric_cross_entropy',
  'trades',
  'transport_cost',
  'truncated_generalized_cross_entropy',
  'virtual_adversarial',
}
OVER_BATCH = {
  'armor_risk',
  'armor_update',
  'armor_weights',
  'chi2_dual',
  'chi2_multilevel',
  'chi2_risk',
  'chi2_threshold_update',
  'chi2_weights',
  'class_conditional_infonce',
  'concept_risk_update',
  'cvar_multilevel',
  'cvar_risk',
  'cvar_threshold_update',
  'cvar_weights',
  'derivative_manipulation',
  'embedding_geometry',
  'estimate_noise_rate',
  'example_weights_update',
  'gradient_rescaling',
  'group_dro',
  'group_dro_update',
  'infonce',
  'label_log_probabilities',
  'mixup_inputs',
  'mixup_loss',
  'mixup_targets',
  'rescaling_weights',
  'sinkhorn_dro_risk',
  'sinkhorn_dro_update',
  'spread',
  'spread_of',
  'step_scale',
  'supervised_contrastive',
}
OF_ROWS = PER_EXAMPLE | OVER_BATCH  # The result has the batch's axis.


def arguments(dtype=jnp.float32):
  rng = np.random.default_rng(0)
  return (
    jnp.asarray(rng.uniform(0.5, 3, size=(B,)), dtype),
    jnp.asarray(rng.normal(size=(B, 6)), dtype),
    jnp.asarray(np.arange(B) % K),
    jnp.asarray([0.3, 0.9, 0.6], dtype),
  )


def close(a, b, atol=1e-6):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(
      np.asarray(left, 'f'), np.asarray(right, 'f'), atol=atol, rtol=1e-5
    )


@pytest.mark.fast
def test_every_public_name_is_covered():
  assert set(CALLS) | TYPES == set(losses.__all__)
  assert list(losses.__all__) == sorted(losses.__all__)


def jitted(names, change, args):
  """``change(CALLS[name])(*args)`` of each name, compiled together."""
  return jax.jit(lambda *args: {n: change(CALLS[n])(*args) for n in names})(
    *args
  )


@pytest.fixture(scope='module')
def values():
  return Results(CALLS, lambda names: jitted(names, lambda f: f, arguments()))


@pytest.fixture(scope='module')
def stacked():
  """Of two batches of the same examples, by vmap."""
  args = jax.tree.map(lambda a: np.stack([a, a]), arguments())
  return Results(CALLS, lambda names: jitted(names, jax.vmap, args))


@pytest.fixture(scope='module')
def low():
  """In bfloat16."""
  args = arguments(jnp.bfloat16)
  return Results(CALLS, lambda names: jitted(names, lambda f: f, args))


@pytest.fixture(scope='module')
def gradients():
  """In rows, images and small."""

  def change(call):
    def total(rows, images, ids, small):
      leaves = jax.tree.leaves(call(rows, images, ids, small))
      return sum(jnp.sum(leaf) for leaf in leaves)

    return jax.grad(total, argnums=(0, 1, 3))

  return Results(CALLS, lambda names: jitted(names, change, arguments()))


def placed(mesh):
  """The arguments, rows of the first three over the mesh."""
  batch, whole = NamedSharding(mesh, P('data')), NamedSharding(mesh, P())
  return jax.device_put(arguments(), (batch, batch, batch, whole))


@pytest.fixture(scope='module')
def over_two_devices():
  """With rows over two devices, Auto axes."""
  mesh = mesh_of(2)

  def run(names):
    with jax.set_mesh(mesh):
      return jitted(names, lambda f: f, placed(mesh))

  return Results(CALLS, run)


@pytest.fixture(scope='module')
def on_each_device():
  """By shard_map on two devices, each of which has all examples."""
  rows, images, ids, small = arguments()
  twice = [np.concatenate([a, a]) for a in (rows, images, ids)]
  mesh = mesh_of(2)

  def run(names):
    mapped = jax.shard_map(
      lambda *args: {n: as_rows(CALLS[n])(*args) for n in names},
      mesh=mesh,
      in_specs=(P('data'), P('data'), P('data'), P()),
      out_specs={n: P('data') if n in OF_ROWS else P() for n in names},
    )
    return jax.jit(mapped)(*twice, small)

  return Results(CALLS, run)


def as_rows(call):
  """The call with scalars as arrays of one element."""
  return lambda *args: jax.tree.map(jnp.atleast_1d, call(*args))


@pytest.mark.parametrize('name', CALLS)
def test_vmap_equals_one_at_a_time(name, stacked, values):
  close(jax.tree.map(lambda a: a[1], stacked[name]), values[name])


@pytest.mark.parametrize('name', CALLS)
def test_low_precision_is_finite(name, low):
  for leaf in jax.tree.leaves(low[name]):
    assert np.isfinite(np.asarray(leaf, 'f')).all()


@pytest.mark.parametrize('name', CALLS)
def test_gradients_are_finite(name, gradients):
  for grad in gradients[name]:
    assert np.isfinite(grad).all()


@pytest.mark.parametrize('name', CALLS)
def test_two_devices_equal_one(name, over_two_devices, values):
  close(over_two_devices[name], values[name])


@pytest.mark.parametrize('name', CALLS)
def test_it_is_traced_under_a_mesh_with_explicit_axes(name, values):
  """Which operations those refuse is known before anything is compiled."""
  mesh = mesh_of(2, AxisType.Explicit)
  with jax.set_mesh(mesh):
    out = jax.eval_shape(CALLS[name], *placed(mesh))
  shapes = lambda tree: [np.shape(leaf) for leaf in jax.tree.leaves(tree)]
  assert shapes(out) == shapes(values[name])


@pytest.mark.parametrize('name', CALLS)
def test_it_runs_per_device(name, on_each_device, values):
  """Each device answers for its own rows."""
  expected = jax.tree.map(np.atleast_1d, values[name])
  if name in OF_ROWS:
    expected = jax.tree.map(lambda a: np.concatenate([a, a]), expected)
  close(on_each_device[name], expected)


@pytest.mark.full
@pytest.mark.parametrize('name', CALLS)
def test_jit_changes_nothing(name, values):
  close(jax.device_get(CALLS[name](*arguments())), values[name])


@pytest.mark.full
@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize('name', CALLS)
def test_eight_devices_equal_one(name, kind, values):
  mesh = mesh_of(8, kind)
  with jax.set_mesh(mesh):
    out = jax.jit(CALLS[name])(*placed(mesh))
  close(jax.device_get(out), values[name])


@pytest.mark.full
@pytest.mark.parametrize('name', CALLS)
def test_shard_map_and_pmap_agree_on_eight_devices(name, mesh, values):
  args = arguments()
  fun = as_rows(CALLS[name])
  mapped = jax.jit(
    jax.shard_map(
      fun,
      mesh=mesh,
      in_specs=(P('data'), P('data'), P('data'), P()),
      out_specs=P('data') if name in OF_ROWS else P(),
    )
  )
  out = mapped(*args)
  split = [a.reshape(8, 2, *a.shape[1:]) for a in args[:3]]
  per_device = jax.pmap(fun, in_axes=(0, 0, 0, None))(*split, args[3])
  if name in OF_ROWS:
    per_device = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), per_device)
  else:
    per_device = jax.tree.map(lambda a: a[5], per_device)
  close(out, per_device)
  if name not in OVER_BATCH:
    close(out, jax.tree.map(np.atleast_1d, values[name]))


@pytest.mark.fast
def test_importing_losses_needs_only_jax_optax_and_chex():
  code = (
    'import sys, jax, optax, chex\n'
    'before = {m.split(".")[0] for m in sys.modules}\n'
    'import rrl_jax.losses\n'
    'after = {m.split(".")[0] for m in sys.modules}\n'
    'print(sorted(after - before))'
  )
  out = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert out.stdout.strip() == "['rrl_jax']"
