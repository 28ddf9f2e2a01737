from pathlib import Path

import pytest
from builders import photo_with_faces, planted_encoder, random_encoder_for_tests, synthetic_face_model

import wm3dr

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of training data beside the repository, where there is one."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"no {folder}: the data for building and training are not here")
    return folder


@pytest.fixture(scope="session")
def face_model(tmp_path_factory: pytest.TempPathFactory) -> wm3dr.FaceModel:
    return synthetic_face_model(tmp_path_factory.mktemp("face_model") / "synthetic.safetensors")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory, face_model: wm3dr.FaceModel) -> Path:
    return planted_encoder(tmp_path_factory.mktemp("encoder") / "planted.onnx", face_model)


@pytest.fixture(scope="session")
def random_encoder(tmp_path_factory: pytest.TempPathFactory, face_model: wm3dr.FaceModel) -> Path:
    return random_encoder_for_tests(tmp_path_factory.mktemp("encoder") / "random.onnx", face_model)


@pytest.fixture(scope="session")
def reconstructor(encoder: Path, face_model: wm3dr.FaceModel) -> wm3dr.Reconstructor:
    return wm3dr.Reconstructor(encoder, face_model, threads=2)


@pytest.fixture(scope="session")
def photo():
    """236 x 180 pixels, three faces: red 250 at cell (9, 7), 200 at (22, 15), 160 at (3, 18)."""
    return photo_with_faces((236, 180), [(9, 7, 250, 0), (22, 15, 200, 128), (3, 18, 160, 255)])


@pytest.fixture(scope="session")
def result(reconstructor: wm3dr.Reconstructor, photo) -> wm3dr.Result:
    return reconstructor.reconstruct(photo)
