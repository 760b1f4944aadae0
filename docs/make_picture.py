"""Makes the picture of README.md: the top of the report of its first command.

  python docs/make_picture.py

Runs ``python launch.py --config=configs/hro.py`` in a temporary folder, opens
its report/index.html in a headless Chromium, once for a reader who prefers
light colours and once for one who prefers dark, and writes
docs/images/report_light.png and docs/images/report_dark.png.
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile

from PIL import Image

ROOT = pathlib.Path(__file__).parent.parent
IMAGES = ROOT / 'docs' / 'images'
WIDTH, HEIGHT, PIXELS_PER_POINT = 1040, 888, 2
COLORS = 64  # The page has few; more would only make the files larger.
SCHEMES = {'dark': 0, 'light': 1}  # Chromium's values of preferredColorScheme.


def chromium() -> str:
  """Returns the path of the browser."""
  for name in ('chromium', 'google-chrome'):
    if path := shutil.which(name):
      return path
  sys.exit('needs a browser: apt-get install chromium')


def photograph(page: pathlib.Path, scheme: str, shot: pathlib.Path) -> None:
  """Writes the top of ``page``, drawn in a color scheme, as a small PNG."""
  with tempfile.TemporaryDirectory() as profile:
    subprocess.run(
      [
        chromium(),
        '--headless',
        '--no-sandbox',
        '--disable-gpu',
        '--disable-quic',
        '--disable-background-networking',
        '--disable-component-update',
        '--disable-sync',
        '--no-first-run',
        '--hide-scrollbars',
        f'--user-data-dir={profile}',
        f'--blink-settings=preferredColorScheme={SCHEMES[scheme]}',
        f'--force-device-scale-factor={PIXELS_PER_POINT}',
        f'--window-size={WIDTH},{HEIGHT}',
        f'--screenshot={shot}',
        page.as_uri(),
      ],
      check=True,
      capture_output=True,
    )
  with Image.open(shot) as image:
    small = image.convert('RGB').quantize(COLORS, dither=Image.Dither.NONE)
  small.save(shot, optimize=True)


def main() -> None:
  """Trains, evaluates, and takes both pictures."""
  IMAGES.mkdir(exist_ok=True)
  with tempfile.TemporaryDirectory() as folder:
    command = ['launch.py', '--config=configs/hro.py', f'--workdir={folder}']
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
    page = pathlib.Path(folder) / 'report' / 'index.html'
    for scheme in SCHEMES:
      shot = IMAGES / f'report_{scheme}.png'
      photograph(page, scheme, shot)
      print(f'{shot.relative_to(ROOT)}: {shot.stat().st_size:,} bytes')


if __name__ == '__main__':
  main()
