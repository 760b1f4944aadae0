"""A program's text says how often what runs, and what is sent."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import pytest

from rrl_jax.train import hlo

pytestmark = pytest.mark.fast

TEXT = """HloModule jit_f, is_scheduled=true

%region.1 (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %add = f32[]{:T(128)} add(%a, %b)
}

%cond.2 (state: (s32[], f32[8,4], f32[4,4])) -> pred[] {
  %state = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)S(1)}, f32[4,4]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  %stop = s32[]{:T(128)} constant(7)
  ROOT %lt = pred[]{:T(512)} compare(%i, %stop), direction=LT
}

%body.3 (state.1: (s32[], f32[8,4], f32[4,4])) -> (s32[], f32[8,4], f32[4,4]) {
  %state.1 = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)S(1)}, /*index=2*/f32[4,4]{1,0}) parameter(0)
  %x = f32[8,4]{1,0:T(8,128)S(1)} get-tuple-element(%state.1), index=1
  %w = f32[4,4]{1,0} get-tuple-element(%state.1), index=2
  %dot = f32[8,4]{1,0:T(8,128)S(1)} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %hop = (f32[8,4]{1,0}, f32[8,4]{1,0}, u32[], u32[]) collective-permute-start(%dot), source_target_pairs={{0,1},{1,0}}, metadata={op_name="jit(f)/attack/while/body/ppermute"}
  %hopped = f32[8,4]{1,0:T(8,128)S(1)} collective-permute-done(%hop)
  ROOT %tuple = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)S(1)}, f32[4,4]{1,0}) tuple(%i.1, %hopped, %w)
}

ENTRY %main (p: f32[8,4], q: f32[4,4], r: bf16[2,9,9,3]) -> f32[8,4] {
  %p = f32[8,4]{1,0} parameter(0)
  %q = f32[4,4]{1,0} parameter(1)
  %r = bf16[2,9,9,3]{3,2,1,0} parameter(2)
  %k = bf16[3,3,3,5]{3,2,1,0} constant({...})
  %conv = f32[2,4,4,5]{3,2,1,0} convolution(%r, %k), window={size=3x3 stride=2x2}, dim_labels=b01f_01io->b01f
  %zero = s32[]{:T(128)} constant(2)
  %start = s32[]{:T(128)} copy(%zero)
  %begin = (s32[]{:T(128)}, f32[8,4]{1,0}, f32[4,4]{1,0}) tuple(%start, %p, %q)
  %loop = (s32[]{:T(128)}, f32[8,4]{1,0}, f32[4,4]{1,0}) while(%begin), condition=%cond.2, body=%body.3
  %y = f32[8,4]{1,0} get-tuple-element(%loop), index=1
  ROOT %sum = (f32[8,4]{1,0}, bf16[16]{0}) all-reduce(%y, %z), channel_id=4, to_apply=%region.1, metadata={op_name="jit(f)/reduce_sum"}
}
"""  # noqa: E501


def test_a_loop_counts_as_often_as_it_runs():
  program = hlo.Program(TEXT)
  convolution, dot = 2 * (2 * 4 * 4 * 5) * (3 * 3 * 3), 2 * 8 * 4 * 4
  assert program.flops(loops=False) == convolution + dot
  assert program.flops() == convolution + (7 - 2) * dot


def test_collectives_have_kind_bytes_times_and_place():
  found = {c.kind: c for c in hlo.Program(TEXT).collectives()}
  assert set(found) == {'collective-permute', 'all-reduce'}
  hop, total = found['collective-permute'], found['all-reduce']
  assert (hop.num_bytes, hop.times) == (8 * 4 * 4, 5)
  assert 'attack' in hop.scope.split('/')
  assert (total.num_bytes, total.times) == (8 * 4 * 4 + 2 * 16, 1)


def test_pieces_of_one_collective_count_once_and_what_is_sent_at_once_adds_up():
  piece = (
    '%piece.{0} (x.{0}: f32[4]) -> f32[16] {{\n'
    '  %x.{0} = f32[4]{{0}} parameter(0)\n'
    '  ROOT %gather.{0} = f32[16]{{0}} all-gather(%x.{0}), channel_id=9\n}}\n'
  )
  text = (
    piece.format(1) + piece.format(2) + 'ENTRY %main (p: f32[4]) -> f32[16] {\n'
    '  %p = f32[4]{0} parameter(0)\n'
    '  %a = f32[16]{0} fusion(%p), kind=kCustom, calls=%piece.1\n'
    '  %b = f32[16]{0} fusion(%p), kind=kCustom, calls=%piece.2\n'
    '  %two = ((f32[4]{0}, f32[8]{0}), (f32[16]{0:T(128)}, f32[32]{0}))'
    ' all-gather-start(%p, %q), channel_id=10\n'
    '}\n'
  )
  found = hlo.Program(text).collectives()
  assert [c.num_bytes for c in found] == [64, (16 + 32) * 4]


def test_a_known_trip_count_is_believed():
  known = 'body=%body.3, backend_config={"known_trip_count":{"n":"11"}}'
  program = hlo.Program(TEXT.replace('body=%body.3', known))
  assert {c.times for c in program.collectives()} == {1, 11}


def test_what_stays_in_fast_memory_is_not_read_from_main_memory():
  in_main = TEXT.replace('S(1)', '')
  assert 0 < hlo.Program(TEXT).hbm_bytes() < hlo.Program(in_main).hbm_bytes()


@pytest.mark.parametrize('stride', [1, 2])
def test_products_are_those_that_xla_counts(stride):
  def fn(x, k):
    loss = lambda x, k: jnp.sum(
      jax.lax.conv_general_dilated(
        x,
        k,
        (stride, stride),
        'SAME',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      )
    )
    return jax.grad(loss, argnums=(0, 1))(x, k)

  args = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 8))
  compiled = jax.jit(fn).lower(*args).compile()
  expected = compiled.cost_analysis()['flops']
  counted = hlo.Program(compiled.as_text()).flops()
  assert counted == pytest.approx(expected, rel=0.03)


def test_a_sharded_sum_is_one_all_reduce_of_its_result(mesh):
  x = jax.ShapeDtypeStruct(
    (16, 32), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec('data'))
  )
  compiled = jax.jit(lambda x: x.sum(0)).lower(x).compile()
  (found,) = hlo.Program(compiled.as_text()).collectives()
  assert (found.kind, found.num_bytes, found.times) == ('all-reduce', 128, 1)
