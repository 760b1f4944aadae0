"""Each step stands once in metrics.jsonl, and trackers hear the same."""

import json
import struct
import sys
import types

import pytest
from tensorboardX import record_writer
from tensorboardX.proto import event_pb2

from rrl_jax.errors import DataError
from rrl_jax.train import metrics

pytestmark = pytest.mark.fast


def write(root, values, *, step=0, tracker='none'):
  with metrics.writer(root, step=step, tracker=tracker, config={}) as put:
    for at, loss in values:
      put(at, {'train/loss': loss})


def test_a_line_is_a_flat_object_with_step_and_time(tmp_path):
  write(tmp_path, [(1, 0.5)])
  (line,) = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  line = json.loads(line)
  assert line.pop('time') > 1.6e9
  assert line == {'step': 1, 'train/loss': 0.5}
  assert list(tmp_path.glob('events.out.tfevents.*'))


def test_tensorboard_reads_the_same_numbers(tmp_path):
  write(tmp_path, [(7, 0.25), (9, 0.5)], step=6)
  (path,) = tmp_path.glob('events.out.tfevents.*')
  data, events = path.read_bytes(), []
  while data:
    (length,) = struct.unpack('<Q', data[:8])
    for part, end in ((data[:8], 8), (data[12 : 12 + length], 12 + length)):
      (found,) = struct.unpack('<I', data[end : end + 4])
      assert found == record_writer.masked_crc32c(part)
    events.append(event_pb2.Event.FromString(data[12 : 12 + length]))
    data = data[16 + length :]
  version, start, *scalars = events
  assert version.file_version == 'brain.Event:2'
  assert (start.step, start.session_log.status) == (7, 1)
  assert [
    (event.step, value.tag, value.simple_value)
    for event in scalars
    for value in event.summary.value
  ] == [(7, 'train/loss', 0.25), (9, 'train/loss', 0.5)]


def test_lines_past_the_resumed_step_are_dropped(tmp_path):
  write(tmp_path, [(1, 0.1), (2, 0.2), (3, 0.3)])
  write(tmp_path, [(2, 0.4)], step=1)
  lines = metrics.read(tmp_path / 'metrics.jsonl')
  assert [(line['step'], line['train/loss']) for line in lines] == [
    (1, 0.1),
    (2, 0.4),
  ]


def test_a_torn_line_is_left_out(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1}\n{"step": 2, "tr')
  assert metrics.read(path) == [{'step': 1}]
  assert metrics.read(tmp_path / 'none') == []


def test_the_tracker_gets_the_same_numbers_under_one_name(
  tmp_path, monkeypatch
):
  calls = []

  class Run:
    def __enter__(self):
      return self

    def __exit__(self, *error):
      calls.append('closed')

    def log(self, values, step):
      calls.append((step, values))

  def init(**kw):
    calls.append(kw['id'])
    return Run()

  monkeypatch.setitem(sys.modules, 'wandb', types.SimpleNamespace(init=init))
  write(tmp_path, [(1, 0.5)], tracker='wandb')
  write(tmp_path, [(2, 0.4)], step=1, tracker='wandb')
  name = calls[0]
  assert calls == [
    name,
    (1, {'train/loss': 0.5}),
    'closed',
    name,
    (2, {'train/loss': 0.4}),
    'closed',
  ]


def test_a_full_disk_is_told_in_one_line(tmp_path):
  resource = pytest.importorskip('resource')
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  try:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    with pytest.raises(DataError, match='cannot write metrics') as error:
      write(tmp_path, [(step, 0.5) for step in range(1, 20)])
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert len(str(error.value).splitlines()) == 1
  steps = [line['step'] for line in metrics.read(tmp_path / 'metrics.jsonl')]
  assert steps == list(range(1, len(steps) + 1))
  write(tmp_path, [(2, 0.5)], step=1)
  lines = metrics.read(tmp_path / 'metrics.jsonl')
  assert [line['step'] for line in lines] == [1, 2]
