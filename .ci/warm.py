"""Compile librosa's numba functions once, in one process: two that do so at the same time can leave a broken cache, and every later use of it crashes."""
from dnerf.audio.mel import estimate_f0, synthetic_speech

if __name__ == "__main__":
    estimate_f0(synthetic_speech(2.0)[0])
