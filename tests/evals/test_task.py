"""Which examples a task is fitted on."""

import numpy as np
import pytest

from rrl_jax.evals import task as task_lib
from tests.evals import toy

pytestmark = pytest.mark.fast


def test_training_examples_follow_from_name_and_size():
  one, two = toy.data().tasks
  chosen = task_lib.choose_training(one, 50)
  assert len(np.unique(chosen)) == 50
  assert chosen.max() < len(one.train)
  other_test = one._replace(test=two.test)
  np.testing.assert_array_equal(
    chosen, task_lib.choose_training(other_test, 50)
  )
  renamed = one._replace(name='uno')
  assert np.any(chosen != task_lib.choose_training(renamed, 50))


def test_zero_or_many_take_all_training_examples():
  one = toy.data().tasks[0]
  for num_train in (0, 150, 10_000):
    np.testing.assert_array_equal(
      task_lib.choose_training(one, num_train), np.arange(150)
    )


def test_fewer_attacked_examples_are_some_of_the_more():
  one = toy.data().tasks[0]
  few, many = (task_lib.choose_test(one, n) for n in (20, 60))
  assert len(few) == 20
  assert set(few) < set(many)
