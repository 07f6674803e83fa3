"""Write clips to a folder: echodfkd synthesize --config configs/synthesize.yaml synthesize.out=FOLDER."""

import sys

from echodfkd.config.rules.jobs import needs_clips_folder
from echodfkd.config.run import RunConfig
from echodfkd.core.terminal import print_line
from echodfkd.runtime.command import run_job


def work(config: RunConfig) -> dict[str, object]:
    """Write the missing clips and print the path of the preview."""
    from echodfkd.runtime.synthesis_run import run_synthesis

    result = run_synthesis(config, print_line)
    if config.synthesize.preview:
        print_line(f"preview: {result['out']}/preview.png and preview.mp4")
    return {"ok": True, **result}


if __name__ == "__main__":
    sys.exit(run_job(work, description=__doc__, check=needs_clips_folder))
