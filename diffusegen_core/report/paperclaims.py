"""What the paper claims, in its words, with the cluster counts and numbers of pairs that it claims it for."""

from dataclasses import dataclass

DICE, IOU = "dice", "iou"


@dataclass(frozen=True)
class Claim:
    """One claim. `comparisons` and `claims.pasting` say what is compared for it, and `otherclaims` where no
    networks are."""

    text: str
    """The paper's words, as closely as a self-contained sentence allows."""
    place: str
    """Where it is made."""
    made_for: str = ""
    """The cluster counts, numbers of pairs and test sets that it is made for."""
    chapter: str = "segment"
    """The chapter whose results are compared: a key of `standing.NUMBERS`."""
    measure: str = DICE
    clusters: tuple[int, ...] = (20,)
    """The cluster counts whose cells in the paper's own tables are counted; () where it has none."""
    helps: bool = True
    """Whether it says that something helps, so that an effect too small to matter counts against it."""
    digits: str = "+.3f"
    """The format of its differences."""

    @property
    def words(self) -> str:
        """The claim with its place and what it is made for."""
        return f"{self.text} ({'; '.join(part for part in (self.place, self.made_for) if part)})"


ALL = (10, 20, 30, 40)
WHOLE = "K = 20; N = 1, 2, 3"
BOTH_WAYS = "networks trained on such pairs alone, and on small sets of real and such pairs"

SYNTHETIC = Claim("Trained on synthetic pairs alone, Styled-Diff performed better than GAN in all cases",
                  "section 3.3.1", f"{WHOLE}; HyperKvasir")
TRANSFER = Claim("The improvement over the GAN persists on different datasets", "abstract, section 3.3.1",
                 f"{WHOLE}; CVC-ClinicDB, PolypGen")
STYLING = Claim("Styling results in consistent improvements", "section 3.3.1", WHOLE)
STYLING_FULL = Claim("The same for the model of the full set, which the sentence does not leave out",
                     "section 3.3.1", "Full; N = 1, 2, 3")
CLUSTERING = Claim("Clustering helps: Styled-Diff outperforms Full-Styled-Diff, often by 0.1",
                   "section 3.3.1", WHOLE)
FEWER = Claim("Models trained on fewer clusters perform better than on more, on all test sets",
              "section B.4.1", "K = 10, 20, 30, 40; N = 1, 2, 3", clusters=ALL)
GROWS = Claim("The scores of Styled-Diff increase with N", "section 3.3.1", WHOLE)
SMALL = Claim("Small real sets augmented by Styled-Diff perform better than with standard augmentation alone",
              "section 3.3.2", "K = 10 to 40; r = 3; 16, 32 and 64 real pairs; HyperKvasir", "augment",
              clusters=ALL)
FADES = Claim("That improvement is largest for the smallest set, and diminishes as the set grows",
              "section 3.3.2", "K = 10 to 40; r = 3; 16 to 128 real pairs", "augment", clusters=ALL,
              helps=False)
EKES = Claim("Styled-Diff still ekes out a better score on the transfer datasets with 128 real pairs",
             "section 3.3.2", "K = 10 to 40; r = 3", "augment", clusters=ALL)
PARTLY = Claim("In small real sets Styled-Diff consistently outperforms GAN in IoU", "section 3.3.2",
               "K = 10 to 40; r = 3; 16 to 128 real pairs", "augment", IOU, ALL)
NEARER = Claim("By FID, Diff and Styled-Diff are nearer to the real images than GAN", "section 3.2",
               "K = 20 and Full", "evaluate", "FID", digits="+.3g")
VARIED = Claim("The MS-SSIM of synthetic images is within 0.05 of that of Real", "section 3.2",
               "K = 20, Full and GAN", "evaluate", "MS-SSIM", digits="+.4f")
COMPUTE = Claim("The models of the clusters need less compute for training than a GAN for each image",
                "abstract, section 4", "K = 20", "train", "s", (), digits="+,.0f")
PASTING = Claim("Painted pairs give better segmentation than pasted ones, the baseline that needs no model",
                "not in the paper", BOTH_WAYS, clusters=())
FILTERING = Claim("Filtering helps: what the filter keeps gives better segmentation than all painted pairs",
                  "not in the paper", BOTH_WAYS, clusters=())
