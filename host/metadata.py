"""The header of a saved file: ``ss_*`` as kohya's trainers write it and ``modelspec.*``.

Nothing in it depends on the clock, the machine or a path, so the same run makes the same bytes.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from dataset.config import DatasetConfig
from host.check import Job
from host.config import metadata_values
from host.optimizers import describe
from host.regularisation import samples_per_epoch


def run_metadata(
    job: Job, header: Mapping[str, str], *, steps: int, epoch: int, device_type: str
) -> dict[str, str]:
    """Return the header of a file saved after ``steps`` steps in ``epoch`` (counted from 1).

    ``header`` is what the file says of itself.
    """
    metadata = {**header, **_modelspec(job)}
    if job.settings.output.no_metadata:
        return metadata
    values = metadata_values(job.config)
    return {
        **metadata,
        **_training(job, values, device_type=device_type),
        "ss_steps": str(steps),
        "ss_epoch": str(epoch),
        "musubi_flux_dev_settings": json.dumps(values, sort_keys=True),
    }


def _training(job: Job, values: Mapping[str, str], *, device_type: str) -> dict[str, str]:
    plan, fit = job.plan, job.settings.fit
    same_name = (
        "output_name",
        "learning_rate",
        "gradient_checkpointing",
        "gradient_accumulation_steps",
        "lr_warmup_steps",
        "lr_scheduler",
        "network_dropout",
        "mixed_precision",
        "seed",
        "training_comment",
        "max_grad_norm",
        "fp8_base",
        "weighting_scheme",
        "logit_mean",
        "logit_std",
        "guidance_scale",
        "timestep_sampling",
        "sigmoid_scale",
        "discrete_flow_shift",
        "loss_type",
        "prior_loss_weight",
        "noise_offset",
        "min_snr_gamma",
        "ip_noise_gamma",
        "ip_noise_gamma_random_strength",
    )
    return {
        **{f"ss_{name}": values[name] for name in same_name if name in values},
        "ss_session_id": hashlib.sha256(json.dumps(dict(values), sort_keys=True).encode()).hexdigest()[:10],
        "ss_optimizer": describe(job.settings.optimizer, device=device_type),
        "ss_max_train_steps": str(plan.total_steps),
        "ss_num_epochs": str(-(-plan.total_steps // plan.steps_per_epoch)),
        "ss_num_train_items": str(sum(item.repeats for item in job.trained)),
        "ss_num_train_images": str(samples_per_epoch(job.trained, is_reg=False)),
        "ss_num_reg_images": str(samples_per_epoch(job.trained, is_reg=True)),
        "ss_num_batches_per_epoch": str(plan.batches_per_epoch),
        "ss_model_prediction_type": "raw",
        "ss_cache_latents": "True",
        "ss_gradient_checkpointing_cpu_offload": "False",
        "ss_full_fp16": "False",
        "ss_full_bf16": "False",
        "ss_huber_c": str(fit.huber_c),
        "ss_sd_model_name": _name(job, "dit"),
        "ss_vae_name": _name(job, "vae"),
        "ss_datasets": json.dumps([_dataset(dataset) for dataset in job.datasets]),
    }


def _dataset(config: DatasetConfig) -> dict[str, object]:
    entry: dict[str, object] = {
        "resolution": [config.resolution.width, config.resolution.height],
        "caption_extension": config.caption_extension,
        "batch_size_per_device": config.batch_size,
        "num_repeats": config.num_repeats,
        "enable_bucket": config.enable_bucket,
        "bucket_no_upscale": config.bucket_no_upscale,
        "has_control": False,
        "is_reg": config.is_reg,
        "flip_aug": config.flip_aug,
        "alpha_mask": config.alpha_mask,
    }
    if config.mask_suffix is not None:
        entry["mask_suffix"] = config.mask_suffix
    for name in ("image_directory", "image_jsonl_file", "mask_directory"):
        path = getattr(config, name)
        if path is not None:
            entry[name] = Path(path).name
    return entry


def _modelspec(job: Job) -> dict[str, str]:
    output = job.settings.output
    resolution = max(
        (dataset.resolution for dataset in job.datasets), key=lambda size: size.height * size.width
    )
    fixed = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.title": output.metadata_title or output.output_name,
        "modelspec.resolution": f"{resolution.width}x{resolution.height}",
    }
    given = {
        "modelspec.author": output.metadata_author,
        "modelspec.description": output.metadata_description,
        "modelspec.license": output.metadata_license,
        "modelspec.tags": output.metadata_tags,
    }
    noise = job.settings.noise
    if (noise.min_timestep, noise.max_timestep) != (0, 1000):
        fixed["modelspec.timestep_range"] = f"{noise.min_timestep},{noise.max_timestep}"
    return {**fixed, **{name: value for name, value in given.items() if value is not None}}


def _name(job: Job, setting: str) -> str:
    path = job.files.paths.get(setting)
    return path.name if path else ""
