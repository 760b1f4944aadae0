"""Where the numbers of a page come from, from provenance.json."""

from collections.abc import Mapping
import datetime
from typing import Any

from rrl_jax.report import _files
from rrl_jax.train.progress import clock


def summary(record: Mapping[str, Any]) -> list[str]:
  """What one has to know of a run at once, in a few words each.

  Args:
    record: Contents of provenance.json, perhaps with anything in it.

  Returns:
    Of how many images, steps, seed, device, duration, date and commit those
    that are known.
  """
  now = _last(record)
  parts = [
    _counted(record, 'training_images', 'training images'),
    _counted(record, 'test_images', 'test images'),
    _counted(record, 'examples', 'examples'),
    _counted(record, 'runs', 'runs'),
    _counted(record, 'steps', 'steps'),
  ]
  parts.append(_seeds(record))
  parts += [_text(now, 'device'), _duration(record), _day(now)]
  if _text(now, 'commit'):
    parts.append(f'commit {now["commit"]}')
  return [part for part in parts if part]


def rows(record: Mapping[str, Any]) -> list[tuple[str, str]]:
  """Everything that is known, for a table.

  Args:
    record: Contents of provenance.json, perhaps with anything in it.

  Returns:
    ``(label, text)`` of each.
  """
  now = _last(record)
  starts = record.get('starts')
  found = [
    ('Images', _images(record)),
    ('Target tasks', _tasks(record)),
    ('Parameters', _parameters(record)),
    *_of_several(record),
    ('Loss shown', _text(record, 'loss')),
    ('Command', _text(now, 'command')),
  ]
  for each in starts if isinstance(starts, list) else ():
    if isinstance(each, Mapping):
      said = _text(each, 'command')
      if said and said != _text(now, 'command'):
        step = each.get('from_step')
        since = f'from step {step:,}: ' if _is_count(step) and step else ''
        found.append(('Trained by', f'{since}{said}'))
  commit = _text(now, 'commit')
  if commit.endswith('+'):
    commit += ', with changes to tracked files'
  found += [
    ('Commit', commit or ('no checkout' if now else '')),
    ('Device', _text(now, 'device')),
    ('Date', _moment(now)),
    ('Duration', _duration(record)),
    ('Versions', _versions(record.get('versions'))),
  ]
  return list(dict.fromkeys((label, text) for label, text in found if text))


def _last(record):
  """The circumstances of the evaluation, or else of the last start."""
  for name in ('evaluation', 'starts'):
    found = record.get(name)
    if isinstance(found, list):
      found = found[-1] if found else None
    if isinstance(found, Mapping):
      return found
  return {}


def _is_count(value):
  return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _text(record, name):
  """A text, or '' where there is none."""
  value = record.get(name)
  return value if isinstance(value, str) else ''


def _counted(record, name, unit):
  value = record.get(name)
  if isinstance(value, list) and value and all(map(_is_count, value)):
    ends = dict.fromkeys((min(value), max(value)))  # Of several runs.
    return f'{" to ".join(f"{end:,}" for end in ends)} {unit}'
  return f'{value:,} {unit}' if _is_count(value) else ''


def _of_several(record):
  """What only a table of runs has to say: of one run it is settings."""
  if 'runs' not in record:
    return []
  return [
    ('Runs', _counted(record, 'runs', 'runs')),
    ('Data', _listed(record, 'data')),
    ('Networks', _listed(record, 'network')),
    ('Steps', _counted(record, 'steps', 'steps')),
    ('Seeds', _seeds(record).partition(' ')[2]),
  ]


def _seeds(record):
  """The seed of a run, or those of several."""
  value = record.get('seed')
  if isinstance(value, list) and value and all(map(_is_count, value)):
    return f'seed{"s" if len(value) > 1 else ""} {", ".join(map(str, value))}'
  return f'seed {value}' if _is_count(value) else ''


def _listed(record, name):
  """What several runs have."""
  value = record.get(name)
  texts = value if isinstance(value, list) else ()
  return '; '.join(text for text in texts if text and isinstance(text, str))


def _images(record):
  shape = record.get('image_shape')
  parts = [
    _counted(record, 'training_images', 'for training'),
    _counted(record, 'test_images', 'for the test'),
    _counted(record, 'examples', 'examples'),
    _counted(record, 'dimensions', 'dimensions'),
    _counted(record, 'classes', 'classes'),
    _counted(record, 'wrong_labels', 'training labels made wrong'),
  ]
  if isinstance(shape, list) and shape and all(map(_is_count, shape)):
    parts.append(f'of {"x".join(map(str, shape))}')
  return ', '.join(filter(None, parts))


def _tasks(record):
  tasks = record.get('tasks')
  return ', '.join(
    f'{name} ({sizes[0]:,} training, {sizes[1]:,} test images)'
    for name, sizes in (tasks.items() if isinstance(tasks, Mapping) else ())
    if isinstance(sizes, list)
    and len(sizes) == 2
    and all(map(_is_count, sizes))
  )


def _parameters(record):
  said = _counted(record, 'parameters', '')
  networks = record.get('networks')
  if said and _is_count(networks) and networks > 1:
    said += f'in each of {networks} networks'
  return said.strip()


def _duration(record):
  evaluation = record.get('evaluation')
  seconds = {
    'trained in': record.get('training_seconds'),
    'evaluated in': (
      evaluation.get('seconds') if isinstance(evaluation, Mapping) else None
    ),
  }
  return ', '.join(
    f'{what} {clock(value)}'
    for what, value in seconds.items()
    if _files.is_number(value) and value >= 0
  )


def _moment(record):
  """The date and time, or '' where there is none."""
  try:
    date = datetime.datetime.fromisoformat(_text(record, 'date'))
  except ValueError:
    return ''
  return date.astimezone(datetime.UTC).strftime('%Y-%m-%d %H:%M UTC')


def _day(record):
  return _moment(record)[:10]


def _versions(versions):
  if not isinstance(versions, Mapping):
    return ''
  left_out = ('devices', 'processes', 'not installed', 'None')
  return ', '.join(
    f'{name} {value}'
    for name, value in versions.items()
    if isinstance(value, str) and not {name, value} & set(left_out)
  )
