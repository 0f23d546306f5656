"""Fig. 1: reconstruction loss and KL divergence while VAE and beta-VAE (beta = 2) train.

python figures/fig1.py [runs]       writes fig1.png beside this file
"""

from common import arguments, flags, missing, protocol_title, provenance, read, save, script

from lvae_min.plots import new_figure


def main() -> None:
    folder = arguments(__doc__).folder
    runs = [run for run in read(folder) if run["model"] in ("vae", "beta-vae")]
    runs = [run for run in runs if run["model"] == "vae" or run["beta"] == 2]
    if not runs:
        missing("VAE and beta-VAE", "--model vae beta-vae --iterations 50000 --schedule 300000", folder)
        return
    # The longest pair of one data set and schedule, batch size and seed; dSprites before others.
    pairs = {}
    for run in runs:
        pairs.setdefault((run.protocol, run["batch_size"], run["seed"]), {})[run["model"]] = run
    (protocol, batch_size, seed), pair = max(
        pairs.items(),
        key=lambda item: (len(item[1]), item[0][0][0] == "dsprites", item[0][0][1], -item[0][2]),
    )
    for model in {"vae", "beta-vae"} - set(pair):
        missing(model, f"--model {model} {flags(protocol)} --batch-size {batch_size} --seed {seed}", folder)
    figure, axes = new_figure(9, 3.6, 1, 2, sharex=True, sharey=True)
    for cell, model, title in zip(
        axes[0], ("vae", "beta-vae"), ("(a) VAE", "(b) beta-VAE, beta = 2"), strict=True
    ):
        if model in pair:
            steps = [line["step"] for line in pair[model].log]
            cell.plot(
                steps, [line["rec"] for line in pair[model].log], label="reconstruction (squared error)"
            )
            cell.plot(steps, [line["kl"] for line in pair[model].log], label="KL (nats)")
            cell.legend(fontsize=8)
        cell.set(title=title, xlabel="iterations", yscale="log")
    axes[0, 0].set_ylabel("term of the loss, training batches")
    made = list(pair.values())
    figure.suptitle(f"Paper's Fig. 1, {protocol_title(protocol)}\n{provenance(made)}", fontsize=7)
    save(figure, "fig1.png")


script(main)
