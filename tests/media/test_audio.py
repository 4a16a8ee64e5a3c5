"""Sound: files of both kinds, rates and channels, cepstra of windows, and what is no sound."""

import math
import warnings

import numpy as np
import pytest
import torch
from sound_files import tone, write_sphere, write_wav

from prernn.media import audio
from prernn.media.audio import Cepstra, read_audio, sample_rate
from prernn.media.video import VideoError


@pytest.mark.parametrize("write", [write_wav, write_sphere])
def test_samples_are_those_of_the_file(tmp_path, write):
    samples = tone(440, 0.5)
    path = write(tmp_path / "a.WAV", samples)
    assert sample_rate(path) == 8000
    found = read_audio(path)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), samples, atol=1e-4)


def test_channels_become_their_mean_and_other_rates_the_one_that_is_wanted(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "_said", set())
    one, other = tone(440, 1), tone(880, 1)
    path = write_wav(tmp_path / "stereo.wav", np.stack([one, other], axis=1))
    with pytest.warns(RuntimeWarning, match=r"sound of 8000 Hz, 2 channels, is converted to 8000 Hz, 1 channel: .*st"):
        mixed = read_audio(path)
    np.testing.assert_allclose(mixed.numpy(), (one + other) / 2, atol=1e-3)
    fast = write_wav(tmp_path / "fast.wav", tone(440, 1, 44100), 44100)
    with pytest.warns(RuntimeWarning, match="44100 Hz, 1 channels, is converted to 8000 Hz"):
        slow = read_audio(fast, 8000)
    assert abs(len(slow) - 8000) <= 2
    np.testing.assert_allclose(slow.numpy()[200:7800], one[200:7800], atol=0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        read_audio(fast, 8000)


def test_what_is_no_sound(tmp_path):
    (tmp_path / "text.wav").write_text("no sound")
    with pytest.raises(VideoError, match=r"text.wav: can't be read as sound"):
        read_audio(tmp_path / "text.wav")
    with pytest.raises(VideoError, match=r"none.wav: can't be read as sound"):
        sample_rate(tmp_path / "none.wav")
    with pytest.raises(VideoError, match=r"empty.wav: "):
        read_audio(write_wav(tmp_path / "empty.wav", np.zeros(0)))
    import av

    with av.open(str(tmp_path / "nan.wav"), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.full((1, 800), np.nan, np.float32), format="flt", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(VideoError, match=r"nan.wav: expected samples that are numbers, found NaN"):
        read_audio(tmp_path / "nan.wav")


@pytest.mark.parametrize(("samples", "steps"), [(1, 1), (160, 1), (239, 1), (240, 2), (8000, 99)])
def test_windows_every_hop(samples, steps):
    cepstra = Cepstra()
    found = cepstra(torch.randn(samples), 8000)
    assert found.shape == (steps, 39)
    assert cepstra.steps(samples, 8000) == steps
    middles = cepstra.middles(steps, 8000)
    assert middles[0] == pytest.approx(0.01)
    assert np.diff(middles) == pytest.approx(0.01)


def test_a_window_hears_its_own_samples_alone_but_for_differences():
    cepstra, samples = Cepstra(), torch.randn(4000) * 0.1
    before = cepstra(samples, 8000)
    changed = samples.clone()
    changed[2000:2080] += 1  # windows that begin from 1841 on and before 2080: 24 to 25
    moved = (cepstra(changed, 8000)[:, :13] - before[:, :13]).abs().amax(1) > 1e-4
    assert moved.nonzero().flatten().tolist() == [24, 25]
    slopes = (cepstra(changed, 8000)[:, 13:26] - before[:, 13:26]).abs().amax(1) > 1e-4
    assert set(slopes.nonzero().flatten().tolist()) <= set(range(22, 28))
    torch.testing.assert_close(before[1:, :13], cepstra(samples[80:], 8000)[:, :13], atol=1e-3, rtol=1e-3)


def test_silence_is_finite_and_loudness_moves_the_first_coefficient():
    cepstra = Cepstra()
    assert bool(cepstra(torch.zeros(800), 8000).isfinite().all())
    noise = torch.randn(4000)
    change = cepstra(noise, 8000) - cepstra(0.1 * noise, 8000)
    torch.testing.assert_close(change[:, 0], torch.full((49,), math.sqrt(26) * 2 * math.log(10)), atol=0.05, rtol=0)
    assert float(change[:, 1:].abs().max()) < 0.05


@pytest.mark.parametrize("wrong", [{"window": 0}, {"hop": -1}, {"count": 27}, {"count": 0}])
def test_mistakes(wrong):
    with pytest.raises(ValueError, match="cepstra: expected"):
        Cepstra(**wrong)
