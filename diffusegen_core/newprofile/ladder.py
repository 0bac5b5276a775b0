"""The sizes of run that `diffusegen new` chooses from, from a smoke test to the paper's image size.

They follow the profiles smoke, kvasir_cpu and one_gpu. The paper's own run, 30 EFLOP, is
params/paper.yaml.
"""

from dataclasses import dataclass

from diffusegen_core.newprofile.lines import Line, Sections


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One size of run."""

    side: int
    """Side of an image, in pixels."""
    base: int
    """Width of the U-Net's first level."""
    mult: tuple[int, ...]
    attention: int
    images: int
    """Training images per model, T."""
    batch: int
    lr: float
    sources: int | None
    samples: int
    epochs: int
    decoder: tuple[int, ...]
    seeds: int
    filtered: bool
    origin: str
    """Where its values come from, as a phrase that follows "values"."""
    bf16: bool = False
    generators: int = 1


DECODER = (64, 32, 16)
LADDER = (
    Rung(side=32, base=32, mult=(1, 2), attention=16, images=2000, batch=8, lr=1e-3, sources=12, samples=2,
         epochs=8, decoder=DECODER, seeds=1, filtered=False, origin="as in params/smoke.yaml"),
    Rung(side=32, base=32, mult=(1, 2), attention=16, images=3200, batch=8, lr=1e-3, sources=16, samples=2,
         epochs=12, decoder=DECODER, seeds=3, filtered=False, origin="as in params/smoke.yaml"),
    Rung(side=48, base=32, mult=(1, 2, 2), attention=12, images=6000, batch=4, lr=5e-4, sources=24,
         samples=2, epochs=24, decoder=DECODER, seeds=3, filtered=False,
         origin="between those of params/smoke.yaml and params/kvasir_cpu.yaml"),
    Rung(side=64, base=64, mult=(1, 1, 2, 2), attention=16, images=8000, batch=2, lr=2e-4, sources=48,
         samples=3, epochs=60, decoder=(128, *DECODER), seeds=3, filtered=True,
         origin="as in params/kvasir_cpu.yaml", bf16=True),
    Rung(side=64, base=64, mult=(1, 1, 2, 2), attention=16, images=24000, batch=2, lr=2e-4, sources=None,
         samples=3, epochs=60, decoder=(128, *DECODER), seeds=5, filtered=True,
         origin="as in params/kvasir_cpu.yaml, longer", bf16=True),
    Rung(side=128, base=128, mult=(1, 1, 2, 2, 4), attention=16, images=25000, batch=32, lr=2e-4,
         sources=None, samples=3, epochs=100, decoder=(256, 128, *DECODER), seeds=5, filtered=True,
         origin="as in params/one_gpu.yaml", bf16=True),
    Rung(side=256, base=128, mult=(1, 1, 2, 2, 4, 4), attention=16, images=50000, batch=32, lr=1e-4,
         sources=None, samples=3, epochs=100, decoder=(256, 128, *DECODER), seeds=5, filtered=True,
         origin="as in params/one_gpu.yaml at the paper's image size", bf16=True),
)
PASSES = 400  # over each pair; with more, a model learns little but to repeat the pairs
SMALL_SETS = 16, 32, 64, 128  # the paper's N
APART = 0.75  # a smaller set has at most this share of the pairs of the last: nearer ones tell the same twice
MOST_TESTS = 200  # most test images from a folder
MEASURED = 64  # px at which benchmarks/learning.py and worth.py compared ways to train
ALL = 2  # all pairs are painted into if they are at most so many times the rung's sources


def sections(rung: Rung, pairs: int, held: int, k: int, smallest: int) -> Sections:
    """All parameters but those of data and weights, for a run with so many pairs, `smallest` of them in the
    smallest of k clusters, and `held` more that are held out."""
    images = min(rung.images, PASSES * smallest)
    sources = pairs if rung.sources is None or pairs <= ALL * rung.sources else rung.sources
    small = [size for size in SMALL_SETS if size <= APART * sources]
    # Users want to know the gain over all their pairs: where all are painted into, they are the last set.
    sizes = [*(small if rung.side >= 128 else small[:1]), *([sources] if sources == pairs else small[1:2])]
    calls = 25
    return {
        "": {"generators": Line(
            rung.generators, "independent trainings, over which chapters 6 and 7 spread their repetitions: a "
                             "verdict on more than the pairs of one training needs 3")},
        "model": {
            "base_channels": Line(rung.base, f"width and levels, {rung.origin}"),
            "channel_mult": Line(list(rung.mult)), "res_blocks": Line(1),
            "attention_resolutions": Line([rung.attention]), "head_channels": Line(min(rung.base, 64))},
        "process": {"objective": Line("v"), "variance": Line(
            "posterior", "a learned variance stays grainy after so few images")},
        "train": {
            "images": Line(images, f"T of each model, about {round(images / smallest)} passes over the pairs"
                                   f"{' of the smallest cluster' if k > 1 else ''}; with more than {PASSES} "
                                   "a model learns to repeat them"),
            "batch_size": Line(min(rung.batch, smallest),
                               "small batches learn more from the same number of images, but still smaller "
                               "ones take longer" if rung.side <= MEASURED else "a GPU would otherwise idle"),
            "lr": Line(rung.lr, rung.origin),
            "ema": Line(0.999 if images < 8000 * rung.batch // 2 else 0.9998),
            **({"min_snr": Line(5.0, "weights of the noise levels: pairs came out nearer to real ones")}
               if rung.side == MEASURED else {}),
            "precision": (Line("bf16", "fp32 where the device has no instructions for bf16") if rung.bf16
                          else Line("fp32")),
            "checkpoint_every": Line(250), "preview_every": Line(max(100, images // rung.batch // 8))},
        "inpaint": {
            "samples": Line(rung.samples, "synthetic pairs per source, N"),
            "sources": Line(sources, "pairs that are painted into; more of them add variety, but take time"),
            **({} if sources == pairs else {"draw_sources": Line(
                True, "by a hash of their names: the first may all be of one day or scanner")}),
            "masks": Line("varied", "lesions of training pairs, changed and placed elsewhere: the model only "
                                    "paints the image, and no mask is empty"),
            "guidance_scale": Line(2.0, "networks find the painted lesions far more often than at 1"),
            "baselines": Line(["Paste"], "what painting has to beat: real lesions pasted, no model"),
            "respacing": Line(calls, "sampling steps: more change little with given masks"),
            "jump_length": Line(5), "resampling": Line(1), "batch_size": Line(24),
            "precision": Line("bf16" if rung.bf16 else "fp32")},
        "style": {
            "method": Line("sdedit", "a tenth of the time of guided; networks learned more from it at 64 px, "
                                     "while chapter 5 saw the pairs get worse at 32 px: compare them there"),
            "guidance_scale": Line(1.5), "respacing": Line(calls), "skip": Line(16), "batch_size": Line(8),
            "precision": Line("bf16" if rung.bf16 else "fp32")},
        "gan": {"source": Line(None, "singan trains a GAN per source, about a minute each on two cores")},
        "evaluate": {"membership": Line(min(64, held, pairs) or None,
                                        "pairs of each kind, trained on and held out")},
        "filter": {"folds": Line(3 if rung.filtered and pairs >= 48 else None,
                                 "networks that reject bad pairs; null: the run is too small for them")},
        "segment": {
            "epochs": Line(rung.epochs), "epoch_images": Line(
                64, "the same number of steps for every network, however large its set"),
            "lr": Line(3e-3 if rung.epochs <= 24 else 1e-3),
            "lr_epochs": Line(max(1, 2 * rung.epochs // 3)), "lr_after": Line(3e-4),
            "decoder_channels": Line(list(rung.decoder)),
            "samples": Line([rung.samples]), "seeds": Line(
                rung.seeds, "repetitions; a verdict needs 3" if rung.seeds < 3 else
                "repetitions: a verdict needs 3, and more of them narrow its interval"),
            "held_out": Line("rest", "the pairs of data.holdout"),
            "test_count": Line(held, "all that are held out") if held else Line(
                MOST_TESTS, "at most, of each test folder")},
        "augment": {
            "sizes": Line(sizes or [sources], "real pairs that synthetic ones are added to" + (
                "; the last is all of them" if sources == pairs else "")),
            "types": Line(["usual", "unstyled"], "styled and pasted pairs, and those painted before styling"),
            "ratios": Line([rung.samples]), "rule": Line(
                "add", "keeps all real pairs, as you would; replace, as in the paper, those without any"),
            "alpha": Line(1.0, "every real pair gets synthetic ones, as in an export; in the paper half do"),
            "seeds": Line(rung.seeds)}}
