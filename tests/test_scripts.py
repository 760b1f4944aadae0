"""The scripts for clusters are valid shell and print what they would do."""

import os
import pathlib
import shlex
import subprocess

import pytest

SCRIPTS = pathlib.Path(__file__).parent.parent / 'scripts'
RUN = ('run', '--config=configs/hro.py:cl', '--config.data.concepts=a=1 b="2"')


def bash(*args, **env):
  return subprocess.run(
    ['bash', *map(str, args)],
    env={'PATH': os.environ['PATH'], 'HOME': '/home/me'} | env,
    cwd='/',
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.mark.fast
@pytest.mark.parametrize('script', sorted(SCRIPTS.glob('*.sh')))
def test_a_script_is_valid_and_says_how_it_is_used(script):
  assert bash('-n', script).stderr == ''
  done = bash(script)
  assert done.returncode == 2
  assert '[--dry-run] run --config' in done.stderr
  assert bash(script, '--dry-run', 'fly').returncode == 2
  assert bash(script, '--dry-run', 'run').returncode == 2


@pytest.mark.fast
@pytest.mark.parametrize(
  ('stage', 'words'),
  [
    ('create', 'tpu-vm create mine --zone=z --accelerator-type=v6e-64 --spot'),
    ('copy', 'tpu-vm scp --worker=all .[tpu]'),
    ('log', 'tpu-vm ssh mine --worker=0 tail run.log'),
    ('stop', 'tpu-vm ssh mine --worker=all kill -TERM'),
    ('delete', 'tpu-vm delete mine --quiet'),
  ],
)
def test_every_stage_of_a_tpu_slice_is_printed(stage, words):
  env = {'NAME': 'mine', 'ZONE': 'z', 'TYPE': 'v6e-64', 'SPOT': '1'}
  done = bash(SCRIPTS / 'tpu_vm.sh', '--dry-run', stage, **env)
  assert done.returncode == 0, done.stderr
  for word in words.split():
    assert word in done.stdout


@pytest.mark.fast
def test_the_command_arrives_on_a_tpu_host_as_it_was_given():
  done = bash(SCRIPTS / 'tpu_vm.sh', '--dry-run', *RUN, RESTARTS='7')
  (remote,) = (
    word.removeprefix('--command=')
    for word in shlex.split(done.stdout)
    if word.startswith('--command=')
  )
  assert '--worker=all' in done.stdout
  words = shlex.split(remote)
  assert words[words.index('launch.py') + 1 : words.index('>')] == [
    '--multihost',
    '--restarts=7',
    '--workdir=/mnt/runs/rrl',
    *RUN[1:],
  ]


@pytest.mark.fast
def test_the_command_arrives_under_slurm_as_it_was_given():
  done = bash(SCRIPTS / 'slurm.sh', '--dry-run', *RUN, WORKDIR='/w', NODES='3')
  assert '#SBATCH --nodes=3' in done.stdout
  assert '#SBATCH --signal=TERM@60' in done.stdout
  line = next(x for x in done.stdout.splitlines() if x.startswith('srun '))
  words = shlex.split(line)
  assert words[words.index('launch.py') + 1 :] == [
    '--multihost',
    '--workdir=/w',
    *RUN[1:],
  ]


@pytest.mark.fast
def test_a_job_set_is_filled_in_and_starts_again_after_75_only():
  yaml = pytest.importorskip('yaml')
  done = bash(
    SCRIPTS / 'jobset.sh', '--dry-run', *RUN, IMAGE='i:1', HOSTS='8', NAME='me'
  )
  assert done.returncode == 0, done.stderr
  first, *lines, last = done.stdout.splitlines()
  assert (first, last) == ("kubectl apply -f - <<'EOF'", 'EOF')
  spec = yaml.safe_load('\n'.join(lines))['spec']
  job = spec['replicatedJobs'][0]['template']['spec']
  assert job['completions'] == job['parallelism'] == 8
  (rule,) = job['podFailurePolicy']['rules']
  assert rule['onExitCodes']['values'] == [1, 2, 3]
  (container,) = job['template']['spec']['containers']
  assert container['args'] == ['--workdir=/runs/me', *RUN[1:]]
  assert '--num_processes=8' in container['command'][2]
  assert '--coordinator=me-workers-0-0.me:8476' in container['command'][2]


@pytest.mark.fast
def test_a_job_set_without_an_image_is_refused():
  done = bash(SCRIPTS / 'jobset.sh', '--dry-run', *RUN)
  assert done.returncode == 2
  assert 'IMAGE is not set' in done.stderr
