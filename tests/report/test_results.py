"""Each number of the page has the unit of what it measures."""

import pytest

from rrl_jax.report import _results

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
  ('name', 'value', 'written'),
  [
    ('test/accuracy', 0.5, '50.0 %'),
    ('test/log_loss', 0.5, '0.500 nats'),
    ('bound/task/clean_loss', 0.5, '0.500 nats'),
    ('bound/task/adversarial_loss', 7.25, '7.250 nats'),
    ('bound/task/bound', 0.5, '0.500 nats'),
    ('bound/task/slack', -0.5, '-0.500 nats'),
    ('bound/task/feature_shift', 0.5, '0.5'),
    ('bound/task/lipschitz', 0.5, '0.5'),
    ('bound/task/margin_certificate_rate', 0.5, '50.0 %'),
    ('bound/task/certified_accuracy', 0.5, '50.0 %'),
    ('bound/task/certified_bound', 0.5, '0.500 nats'),
    ('bound/task/certified_feature_shift', 0.5, '0.5'),
    ('detect/flipped_loss_auroc', 0.5, '0.500'),
    ('noise/estimate_error', -0.5, '\N{MINUS SIGN}50.0 points'),
  ],
)
def test_a_number_has_the_unit_of_what_it_measures(name, value, written):
  found = _results.measurements({name: value}, {name: 'By formula.'})
  text = found[name]['value'].replace('\N{NO-BREAK SPACE}', ' ')
  assert text == written
