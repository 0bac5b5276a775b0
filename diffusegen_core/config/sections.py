"""The parameters of each part of a run: names, types, units and defaults, which are the smoke profile's."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from diffusegen_core.config.section import Section

# The paper's image size and respaced steps, for which its ellipses and its loss weights are given.
FULL_SIZE, FULL_STEPS = 256, 200
# The parameters of `segment` that name a test set.
TESTS = ("held_out", "cvc", "polypgen")
Pasting = Literal["Paste", "Paste-Poisson"]
BASELINES: list[Pasting] = ["Paste", "Paste-Poisson"]


class Cluster(Section):
    """Chapter 1 (paper 2.2)."""

    k: PositiveInt = Field(2, description="number of clusters, K")
    backbone: str = Field(
        "timm/test_nfnet", description="`inception_v3_fid`, any torchvision model, or `timm/NAME`")
    weights: str = Field("random", description="`pretrained`, `random`, or a path to a file")
    input_range: Literal["imagenet", "symmetric"] = Field(
        "imagenet", description="what the weights expect: ImageNet mean and deviation, or [-1, 1]")
    scan: list[PositiveInt] = Field(
        [2, 3, 4, 5, 6], description="values of K for the silhouette and inertia curves")
    file: str | None = Field(
        None, description="the authors' clusters_K.pkl, used instead of our own clusters; null: none")


class Model(Section):
    """The U-Net (method.md 3): ADM; image and mask in (RGB and one class: 4 channels), twice as many out."""

    base_channels: PositiveInt = Field(32, description="width of the first level, a multiple of 32")
    channel_mult: list[PositiveInt] = Field(
        [1, 2], min_length=1, description="width of each level over the first")
    res_blocks: PositiveInt = Field(1, description="residual blocks per level")
    attention_resolutions: list[PositiveInt] = Field(
        [16], description="image sides, in pixels, with attention")
    head_channels: PositiveInt = Field(32, description="channels of an attention head")
    dropout: float = Field(0.0, ge=0, lt=1)


class Process(Section):
    """The diffusion process (paper A.1)."""

    steps: PositiveInt = Field(1000, description="steps of the forward process")
    beta_start: float = Field(1e-4, gt=0, lt=1)
    beta_end: float = Field(0.02, gt=0, lt=1)
    objective: Literal["eps", "v"] = Field("v", description="what the network predicts; the paper's is eps")
    variance: Literal["learned", "posterior"] = Field(
        "posterior",
        description="of a reverse step: learned (the paper's), or the posterior's, its lower bound")


class Train(Section):
    """Chapter 2 (paper 2.3, B.5)."""

    images: PositiveInt = Field(3200, description="training images that a cluster model sees, the paper's T")
    full_images: PositiveInt | None = Field(
        None, description="T of a model of the full set (K = 1); null: none")
    base_images: PositiveInt | None = Field(
        None, description="T of a model of all pairs that cluster models start from; null: none")
    one_model: bool = Field(
        False, description="cluster models are parts of one model with a label for each cluster, trained on "
                           "all pairs; it sees images times cluster.k")
    batch_size: PositiveInt = Field(8, description="images per optimizer step")
    micro_batch: PositiveInt | None = Field(
        None, description="images per forward pass; null: the whole batch")
    devices: PositiveInt = Field(
        1, description="GPUs (on CPUs, processes) that train a model together, each with a share of every "
                       "batch; no effect beyond rounding, except that each draws its own dropout")
    lr: float = Field(1e-3, gt=0)
    lr_decay: float = Field(
        0.0, ge=0, le=1, description="share of a training, at its end, in which lr falls linearly to 0")
    weight_decay: float = Field(0.0, ge=0)
    flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    augment: float = Field(
        0.0, ge=0, lt=1, description="probability of each geometric change of a training image and its mask, "
                                     "of which the network is told (Karras et al. 2022, F.2, with 0.12); 0: "
                                     "none")
    lesion_weight: float = Field(
        0.0, ge=0, description="w: the error of a pixel in the lesion counts 1 + w times as much as outside, "
                               "with a mean weight of 1 per image; 0: all pixels the same")
    min_snr: float | None = Field(
        None, gt=0, description="gamma of min-SNR weights of the levels (Hang et al. 2023), usually 5; null: "
                                "all levels the same")
    grad_clip: float | None = Field(1.0, gt=0, description="largest gradient norm; null: not clipped")
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the weight average after its warm-up")
    sample_weights: Literal["ema", "raw"] = Field("ema", description="the weights that later chapters use")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="autocast of the network; without bf16 in the device's instructions, fp32")
    compile: bool = Field(
        False, description="compile the network's steps: a minute or more before the first; meant to be "
                           "faster then, but not measured")
    checkpointing: bool = Field(
        False, description="compute activations again for the gradient: less memory, a third more work")
    checkpoint_every: PositiveInt = Field(50, description="optimizer steps between checkpoints")
    preview_every: PositiveInt = Field(100, description="optimizer steps between sample grids")
    preview_images: PositiveInt = Field(8, description="images of a sample grid")
    preview_steps: PositiveInt = Field(25, description="respaced steps of a sample grid")
    preview_sampler: str = Field(
        "ancestral", description="of a sample grid: ancestral (the reverse process), ddim, or dpmpp "
                                 "(DPM-Solver++(2M))")
    keep_optimizer: bool = Field(
        True, description="keep the optimizer's state of a finished model, so that more train.images go on "
                          "from it; as large as its weights, or twice that with lr_decay")
    checkpoints: str | None = Field(
        None,
        description="a folder of finished checkpoints, cluster_I_*.pt as released or ours, which are used as "
                    "they are; nothing is trained")

    @model_validator(mode="after")
    def _possible(self) -> "Train":
        if self.one_model and self.base_images:
            raise ValueError("train.one_model starts from nothing, so train.base_images must be null.")
        return self


class Inpaint(Section):
    """Chapter 3 (paper 2.4, A.2). Sizes of the ellipses are given at 256 px and scale with the image."""

    samples: PositiveInt = Field(2, description="synthetic pairs for each source pair, N")
    sources: PositiveInt | None = Field(
        16, description="number of source pairs: the first by name or, where patients or sequences are "
                        "known, the first of each patient, then the second of each, and so on; null: all")
    draw_sources: bool = Field(
        False, description="choose sources by a hash of their names, the same for every seed, instead of "
                           "the first, which may all be of one day")
    respacing: PositiveInt = Field(25, description="respaced steps")
    jump_length: PositiveInt = Field(5, description="levels of each jump back up, RePaint's j")
    resampling: PositiveInt = Field(1, description="RePaint's U: 1 never jumps back")
    sampler: str = Field("ancestral", description="of a step down, as train.preview_sampler")
    clip: bool = Field(
        True, description="keep the predicted clean image within [-1, 1] in every step; the published code "
                          "never does in inpainting")
    model_of: Literal["any", "own"] = Field(
        "any", description="any: the model of a cluster drawn at random; own: that of the source's cluster")
    masks: str = Field(
        "varied", min_length=1, description="`joint`: the model draws the mask with the image, as in the "
        "paper; or given masks: `own` (the source's), `varied` (those of training pairs, changed and placed "
        "anew), or a folder of masks")
    turn: float = Field(
        180.0, ge=0, le=180, description="the largest angle, in degrees, by which pasted lesions and "
                                         "`varied` masks are turned; 180: any")
    backgrounds: str | None = Field(
        None, min_length=1, description="a folder of pictures without lesions to paint into, by given masks; "
                                        "null: the sources")
    guidance_scale: float = Field(
        2.0, ge=1, le=20, description="how strongly images follow given masks (classifier-free guidance, Ho "
                                      "and Salimans 2022); above 1, two network calls per step")
    seamless: bool = Field(
        True, description="shift what was painted so that its colours meet the surroundings (the membrane of "
                          "Perez et al. 2003)")
    baselines: list[Pasting] | None = Field(
        BASELINES, description="as many pairs made without a model, by pasting real lesions into "
        "the sources: `Paste` (feathered), `Paste-Poisson` (blended by their gradients); null: none")
    classes: list[str] | None = Field(
        None, min_length=1, description="the classes of data.labels that are painted anew; the others stay; "
                                        "null: all")
    within: str | None = Field(
        None, min_length=1, description="the class of data.labels inside which new objects are placed, and "
                                        "which fills the place of a removed one; null: anywhere. diffusegen "
                                        "paint applies it if --keep gives a mask of that class")
    dilate: PositiveInt = Field(20, description="ellipse that widens the mask to be filled, px at 256")
    opening: PositiveInt = Field(16, description="ellipse that opens the new mask, px at 256")
    batch_size: PositiveInt = Field(16, description="images in one network call; no effect beyond rounding")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="as train.precision")


class Style(Section):
    """Chapter 4 (paper 2.4, A.3, B.5). Loss weights are the paper's: for 256 px, 200 steps and DINO."""

    method: Literal["guided", "sdedit"] = Field(
        "guided", description="guided by the losses below, as in the paper, or noised and denoised without "
                              "them, with the mask known (SDEdit, Meng et al. 2022)")
    guidance_scale: float = Field(
        1.5, ge=1, le=20, description="of sdedit, as inpaint.guidance_scale; not used where losses guide")
    respacing: PositiveInt = Field(25, description="respaced steps")
    skip: NonNegativeInt = Field(10, description="how many of these steps, the noisiest, are left out")
    guidance: Literal["paper", "variance"] = Field(
        "paper", description="subtract the gradient, or, as in the public code, the variance times it")
    max_shift: float | None = Field(
        0.3, gt=0, description="largest RMS of one loss's pull, and of the whole shift, over that of the "
                               "step's noise; null: no limit")
    clip: bool = Field(True, description="as inpaint.clip; the published code never does in styling either")
    lambda_zecon: float = Field(500.0, ge=0, description="content: patches in the U-Net's encoder; 0: none")
    lambda_vgg: float = Field(100.0, ge=0, description="content: maps of VGG-19")
    lambda_mse: float = Field(5000.0, ge=0, description="content: pixels")
    lambda_sty: float = Field(10000.0, ge=0, description="style: [CLS]")
    lambda_l2: float = Field(10000.0, ge=0, description="style: pixels")
    lambda_sem: float = Field(40000.0, ge=0, description="semantic divergence of adjacent steps")
    lambda_rng: float = Field(200.0, ge=0, description="values outside [-1, 1]")
    semantic_steps: NonNegativeInt = Field(2, description="first steps with semantic divergence")
    backbone: str = Field("timm/test_nfnet", description="gives [CLS] or features, named as cluster.backbone")
    weights: str = Field("random", description="`pretrained`, `random`, or a path to a file")
    input_range: Literal["imagenet", "symmetric"] = Field("imagenet", description="as cluster.input_range")
    backbone_size: PositiveInt | None = Field(32, description="the backbone's input, px; null: its own")
    vgg: Literal["vgg19", "vgg19_normalised"] = Field(
        "vgg19", description="torchvision's, or the release with rescaled activations (another lambda_vgg)")
    vgg_weights: str = Field("random", description="`pretrained`, `random`, or a path to a file")
    zecon_blocks: list[NonNegativeInt] | None = Field(
        None, min_length=1, description="input blocks whose features are compared; null: the stem, and the "
                                        "last of each of the first four levels")
    zecon_patches: PositiveInt = Field(256, description="most locations of an image that are compared")
    temperature: float = Field(0.07, gt=0, description="of the ZeCon loss")
    colour_transfer: bool = Field(
        True, description="give the result the source's colours, where these are three channels")
    batch_size: PositiveInt = Field(16, description="images in one network call; no effect beyond rounding")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="as train.precision")
    checkpointing: bool = Field(False, description="as train.checkpointing")


class Gan(Section):
    """The baseline of chapters 5 to 7: SinGAN-Seg's pairs (Thambawita et al. 2022), or a SinGAN trained here.

    The defaults are for 32 px and seconds per source; paper.yaml has those of SinGAN (Shaham et al. 2019).
    """

    source: str | None = Field(
        "singan", description="`singan` trains one here; or the folder of SinGAN-Seg's pairs; null: no GAN")
    sources: PositiveInt | None = Field(
        None, description="number of source pairs, chosen as for inpaint; null: inpaint.sources")
    samples: PositiveInt | None = Field(None, description="pairs for each source; null: inpaint.samples")
    min_side: PositiveInt = Field(10, description="side of the coarsest scale, px")
    scale_factor: float = Field(
        0.5, gt=0, lt=1, description="side of a scale over the next finer one's; raised to fit whole scales")
    start_scale: NonNegativeInt = Field(
        0, description="the first scale that draws noise, from the coarsest (0), as in SinGAN-Seg's names")
    channels: PositiveInt = Field(
        16, description="width of the networks of the first four scales; doubles every four, twice")
    layers: PositiveInt = Field(4, ge=2, description="convolutions of a scale's networks")
    steps: PositiveInt = Field(40, description="optimizer steps of each network per scale")
    lr: float = Field(2e-3, gt=0, description="a tenth of it in the last fifth of the steps")
    gradient_penalty: float = Field(1.0, ge=0, description="weight of WGAN-GP's penalty")
    reconstruction: float = Field(20.0, ge=0, description="weight of the reconstruction loss, alpha")
    noise: float = Field(0.1, gt=0, description="noise of a finer scale over the error of the one before")


class Evaluate(Section):
    """Chapter 5 (paper 2.5, 3.2, B.2), and the audit of copies."""

    backbone: str = Field("timm/test_resnet", description=(
        "`inception_v3_fid` gives FID and KID by clean-fid; any other, as cluster.backbone, gives distances "
        "that bear its name"))
    weights: str = Field("random", description="`pretrained`, `random`, or a path to a file")
    input_range: Literal["imagenet", "symmetric"] = Field("imagenet", description="as cluster.input_range")
    sets: PositiveInt = Field(3, description="compared sets; set i holds the i-th pair of every source")
    kernel_subsets: PositiveInt = Field(100, description="random subsets for the mean of the kernel distance")
    kernel_size: PositiveInt = Field(1000, ge=2, description="images of such a subset, at most")
    copy_quantile: float = Field(
        0.01, gt=0, lt=0.5, description="an image is a near-copy if it scores below this quantile of "
                                        "certainly new images; about this share of new images does too, "
                                        "more if they are few")
    membership: PositiveInt | None = Field(
        24, description="most pairs of each kind, training and held-out, on which the models are tested "
                        "for memorisation; null: no test")
    batch_size: PositiveInt = Field(32, description="images in one network call; no effect beyond rounding")
    workers: NonNegativeInt = Field(0, description="processes that resize images; 0: none beside this one")


class Filter(Section):
    """The filter between chapters 5 and 6: which painted pairs are rejected. A null criterion is off."""

    folds: NonNegativeInt | None = Field(
        None, description="parts that the real pairs are split into; a network that saw none of a part "
                          "judges the pairs made from it; null or 0: no filter")
    agreement_quantile: float | None = Field(
        0.25, gt=0, lt=1, description="the Dice of a pair's mask with what such a network finds must reach "
                                      "this quantile of the Dice of real pairs, judged alike; null: no limit")
    seam_quantile: float | None = Field(
        0.95, gt=0, lt=1, description="the contrast at the border of the filled region may not exceed this "
                                      "quantile of the sources' own at the same borders; null: no limit")
    copies: bool = Field(
        True, description="reject near-copies of training images, found in pixels as in chapter 5, at "
                          "evaluate.copy_quantile")


class Segment(Section):
    """Chapter 6 (paper 2.6.1, B.3). Chapter 7 has the same network, training and test sets."""

    encoder: str = Field("tu-test_resnet", description="of U-Net++, as segmentation-models-pytorch names it")
    weights: str = Field("random", description="of the encoder: `pretrained`, `random`, or a path to a file")
    input_range: Literal["imagenet", "symmetric"] = Field("imagenet", description="as cluster.input_range")
    decoder_channels: list[PositiveInt] = Field(
        [64, 32, 16], min_length=3, max_length=5,
        description="width of the decoder from the deepest level up; as many levels as numbers")
    epochs: PositiveInt = Field(12, description="passes over the training set")
    epoch_images: PositiveInt | None = Field(
        64, description="images that count as a pass; null: the training set once, as in the paper, so that "
                        "a larger set gets more steps")
    batch_size: PositiveInt = Field(
        16, ge=2, description="images per optimizer step, at least 2 (batch norm)")
    lr: float = Field(3e-3, gt=0, description="for the first lr_epochs epochs")
    lr_epochs: PositiveInt = Field(8)
    lr_after: float = Field(3e-4, gt=0, description="for the rest")
    validation: float = Field(0.2, gt=0, lt=1, description="share of the sources that choose the best epoch")
    augment: bool = Field(True, description="the paper's augmentation, through albumentations")
    rotate: float = Field(
        0.0, ge=0, le=180, description="with augment, training images of all networks are turned by up "
                                       "to this many degrees (new objects: inpaint.turn); the paper's: 0")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="as train.precision")
    checkpoint_every: PositiveInt = Field(10, description="epochs between checkpoints")
    keep_weights: bool = Field(
        True, description="keep every trained network, so that another test set only scores it; a U-Net++ of "
                          "se_resnext50_32x4d takes 200 MB. false: another test set trains it again")
    types: list[str] | None = Field(
        None, description="data types to train on, such as Real or 20-Styled-Diff; null: all data types of "
                          "the run")
    samples: list[PositiveInt] | None = Field(
        None, min_length=1, description="numbers of synthetic pairs for each source (N); null: 1 to "
                                        "inpaint.samples, for the GAN at most gan.samples")
    seeds: PositiveInt = Field(1, description="repetitions, each with a seed of its own")
    held_out: str | None = Field(
        "rest", description="test set of the training data's kind. `rest`: the pairs held out by "
                            "data.holdout, fresh phantoms, or those outside data.subset; or a folder; "
                            "null: none")
    cvc: str | None = Field(None, description="the folder of CVC-ClinicDB; null: none")
    polypgen: str | None = Field(None, description="the folder of PolypGen's single frames; null: none")
    test_count: PositiveInt = Field(24, description="images drawn from each test set, or all it has")
    resamples: int = Field(1000, ge=200, description="bootstrap samples of an interval, at least 200: with "
                                                     "fewer, its ends are noise")


class Augment(Section):
    """Chapter 7 (paper 2.6.2): small real sets, with synthetic pairs of the same sources."""

    sizes: list[PositiveInt] | None = Field(
        None, min_length=1, description="numbers of real pairs, n (the paper's N); null: its 16, 32, 64 and "
                                        "128, as far as there are sources")
    ratios: list[PositiveInt] | None = Field(
        None, min_length=1, description="numbers of synthetic pairs for each real one (r); null: 1 to "
                                        "inpaint.samples, for the GAN at most gan.samples")
    alpha: float = Field(0.5, ge=0, le=1, description="probability that a real pair gets synthetic ones")
    rule: Literal["replace", "add"] = Field(
        "replace", description="they replace it (as the paper's captions say) or join it (as its text says)")
    types: list[str] | None = Field(
        None, description="data types besides Real; null or usual: styled ones, GAN and Paste; unstyled: "
                          "painted ones")
    seeds: PositiveInt = Field(1, description="repetitions, each with real pairs of its own")
    generator_sees: Literal["all", "subset"] = Field(
        "all", description="what the generator was trained on: all pairs of the run, as in the paper, or the "
                           "small set alone, which trains one anew for each set and seed")
    subset_clusters: PositiveInt = Field(
        1, description="K of a generator that sees a subset, at most the training pairs of the smallest set")
