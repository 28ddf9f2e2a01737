"""One frozen configuration per run, saved whole in the checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class LossWeights:
    """Weight of each loss term; the defaults are METHOD.md's (profile `paper`)."""

    center: float = 1.0
    landmark: float = 0.1  # squared px at 224, ω = 20 for mouth and nose
    scaled_landmark: float = 0.0  # per cent of the face's size, 68 manual landmarks
    dense_landmark: float = 0.0  # per cent of the face's size, MediaPipe's 468
    photometric: float = 100.0
    perceptual: float = 0.01
    prior: float = 1e-4
    texture: float = 1e-3
    illumination: float = 0.0  # squared deviation of the light from grey
    fit_identity: float = 0.0  # displacement by identity against the photo's fit, per cent of the face's size
    fit_expression: float = 0.0  # the same by expression
    fit_rotation: float = 0.0  # the same by rotation
    fit_albedo: float = 0.0  # colour difference to the fit's albedo, per cent
    sparse_color: float = 0.0  # colour difference to the photo at a few hundred points, per cent

    @property
    def with_fits(self) -> bool:
        """Whether any term needs the per-photo fits."""
        return any((self.fit_identity, self.fit_expression, self.fit_rotation, self.fit_albedo))


PAPER = LossWeights()
# Landmark terms normalised by the face's size, so that scales mix, and MediaPipe's dense points; targets from per-photo
# fits, without which pitch, identity and expression are hardly used for hours; converges in hours on two cores.
FAST = LossWeights(
    landmark=0.0,
    scaled_landmark=1.0,
    dense_landmark=1.0,
    photometric=12.0,
    perceptual=0.2,
    prior=1e-3,
    texture=0.05,
    illumination=0.05,
    fit_identity=1.5,
    fit_expression=1.5,
    fit_rotation=0.7,
    fit_albedo=0.6,
    sparse_color=0.8,
)
PROFILES = {"paper": PAPER, "fast": FAST}


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run."""

    stage: int  # 1: single centred faces; 2: composites
    face_model: str  # path of the face-model file
    labels: str  # folder that `wm3dr-train label` wrote
    sources: tuple[str, ...]
    backbone: str = "efficientnet_lite0"
    size: int = 128  # px, side of the square input
    batch: int = 48  # images a step, and process
    iterations: int = 0  # steps; 0: until `minutes`
    minutes: float = 0.0  # wall-clock budget over all resumed parts; 0: until `iterations`
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warmup: int = 200  # steps of linear warm-up
    schedule: str = "cosine"  # or "step": ÷10 at `step_at`
    step_at: float = 0.75  # share of the budget
    ema: float = 0.998  # decay a step of the averaged weights
    clip: float = 5.0  # largest gradient norm
    neighbours: int = 2  # cells read around each centre, besides it
    jaw_weight: float = 0.0  # manual jaw points (visible contour, not fixed points)
    strength: float = 1.0  # of the colour augmentation
    manual_share: float = 0.2  # share of a batch drawn from photos with manual landmarks
    smallest_face: float = 24.0  # px, stage 2
    largest_face: float = 230.0  # px, stage 2
    largest_count: int = 10  # faces a canvas, stage 2
    grid_share: float = 0.0  # share of the canvases packed with faces side by side
    close_share: float = 0.0  # share of the steps with close-ups: larger canvases, fewer of them, largest faces
    close_size: int = 448  # px, side of these canvases
    close_batch: int = 3  # such canvases a step
    close_largest: float = 420.0  # px, their largest face; the smallest is `largest_face` ÷ 2
    negative_share: float = 0.1  # canvases without a face, stage 2
    render_size: int = 112  # px, side of the window in which the photometric terms are evaluated
    render_share: float = 0.0  # share of the faces of a batch that are rendered
    render_limit: int = 1000  # rendered faces a batch at most
    raster: str = "native"  # which triangle a pixel shows: wm3dr's rasterizer, or "pytorch3d", which stays on the GPU
    mobileface: str = ""  # folder of the embedding for the perceptual term
    imagenet: str = ""  # weights to begin with: "" from an installed package or timm's cache, a file, or "none"
    correspondence: str = ""  # places of MediaPipe's points on the face model; "": those on the default one
    frozen: tuple[str, ...] = ()  # prefixes of encoder parameters that are not trained
    losses: LossWeights = field(default_factory=LossWeights)
    revive: bool = False  # give dead hidden units of the head a new start when beginning from a checkpoint
    amp: bool = False  # bfloat16 autocast
    compile: bool = False  # torch.compile of backbone and neck
    seed: int = 0
    log_every: int = 50  # steps
    validate_every: int = 400  # steps
    picture_every: int = 2000  # steps
    checkpoint_every: int = 200  # steps

    def __post_init__(self) -> None:
        if self.stage not in (1, 2):
            raise ValueError(f"'stage' is {self.stage}, expected 1 or 2")
        if self.size % 32:
            raise ValueError(f"'size' is {self.size}, expected a multiple of 32")
        if not self.iterations and not self.minutes:
            raise ValueError("neither 'iterations' nor 'minutes' is set: the run would never end")
        if self.raster not in ("native", "pytorch3d"):
            raise ValueError(f"'raster' is {self.raster!r}, expected 'native' or 'pytorch3d'")
        if self.schedule not in ("cosine", "step"):
            raise ValueError(f"'schedule' is {self.schedule!r}, expected 'cosine' or 'step'")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """Inverse of `to_dict`."""
        values = dict(values)
        values["losses"] = LossWeights(**values["losses"])
        values["sources"], values["frozen"] = tuple(values["sources"]), tuple(values["frozen"])
        return cls(**values)

    def differences(self, other: TrainConfig) -> dict[str, tuple[Any, Any]]:
        """Fields in which two configurations disagree, leaving out the budget and the logging."""
        free = {"iterations", "minutes", "log_every", "validate_every", "picture_every", "checkpoint_every", "compile"}
        mine, others = self.to_dict(), other.to_dict()
        return {k: (mine[k], others[k]) for k in mine if k not in free and mine[k] != others[k]}


def paper_stage(stage: int, **values: Any) -> TrainConfig:
    """METHOD.md's schedule for ResNet-50: 224² × 128 × 200 k at stage 1, 512² × 32 × 100 k at stage 2, Adam 1e-4
    ÷10.
    """
    common = {
        "backbone": "resnet50",
        "learning_rate": 1e-4,
        "schedule": "step",
        "weight_decay": 0.0,
        "losses": PAPER,
        "render_share": 1.0,
    }
    if stage == 1:
        own = {"size": 224, "batch": 128, "iterations": 200_000, "step_at": 0.75}
        common["losses"] = replace(PAPER, center=0.0)
    else:
        own = {"size": 512, "batch": 32, "iterations": 100_000, "step_at": 0.5, "largest_face": 400.0}
    return TrainConfig(**({"stage": stage} | common | own | values))


STEM = ("backbone.conv_stem", "backbone.bn1", "backbone.blocks.0.", "backbone.blocks.1.")  # of timm's compact networks


def fast_stage(stage: int, **values: Any) -> TrainConfig:
    """The compact encoder on a CPU, in hours: 128² × 48 without image terms, then 320² × 8 with all of them."""
    common = {"losses": FAST, "jaw_weight": 0.2}
    if values.get("backbone", "efficientnet_lite0") != "resnet50":
        common["frozen"] = STEM
    if stage == 1:
        own = {"minutes": 40.0}
        common["losses"] = replace(FAST, center=0.0, photometric=0.0, perceptual=0.0, texture=0.0, illumination=0.0)
    else:
        own = {"minutes": 60.0, "size": 320, "batch": 8, "learning_rate": 8e-4, "render_share": 0.5, "render_limit": 12}
        own |= {"largest_count": 12, "grid_share": 0.6, "close_share": 0.12, "close_size": 416, "close_batch": 4}
        own |= {"strength": 0.45, "revive": values.get("backbone", "efficientnet_lite0") != "resnet50"}
    return TrainConfig(**({"stage": stage} | common | own | values))
