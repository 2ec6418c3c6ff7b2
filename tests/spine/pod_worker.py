"""One process of a pod, for `test_pod.py`: trains the tiny VAE and writes down every number it would log."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import signal
import sys
import types


def main(process_id: int, count: int, port: int, folder: pathlib.Path, stop_at: int) -> None:
    from gen_jax import run, runtime

    runtime.configure()
    runtime.initialize_distributed(f"localhost:{port}", count, process_id)
    from gen_jax.train import loop

    module = run.find_experiment("vae")
    config = module.get_config("tiny")
    experiment = module.build(config)
    log = (folder / f"numbers-{process_id}-of-{count}.jsonl").open("a")

    class Recorder(loop.Writer):
        def scalars(self, step, split, values):
            log.write(json.dumps({"step": step, "split": split} | dict(values)) + "\n")
            super().scalars(step, split, values)

    loop.Writer = Recorder

    def batches(step: int, size: int):
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return experiment.train_source.batches(step, size)

    facts = {name: getattr(experiment.train_source, name) for name in ("num_examples", "example_shape", "fingerprint")}
    facts |= {"origin": experiment.train_source.origin, "notes": experiment.train_source.notes}
    source = types.SimpleNamespace(batches=batches, **facts)
    outcome = loop.train(dataclasses.replace(experiment, train_source=source), config, folder / f"run-{count}")
    print(f"step {outcome.step}, finished {outcome.finished}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), pathlib.Path(sys.argv[4]), int(sys.argv[5]))
