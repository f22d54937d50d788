// The microphone as the sound card gives it: the mean of its channels, 16 bit, in messages of 20 ms.
class Microphone extends AudioWorkletProcessor {
  constructor() {
    super();
    this.part = new Int16Array(Math.round(sampleRate / 50));
    this.n = 0;
  }
  process([channels]) {
    const n = channels.length ? channels[0].length : 128;       // a microphone that is muted may have no channel: silence
    for (let k = 0; k < n; k++) {
      const x = channels.reduce((sum, c) => sum + c[k], 0) / (channels.length || 1);
      this.part[this.n++] = Math.max(-1, Math.min(1, x)) * 32767;
      if (this.n === this.part.length) {
        this.port.postMessage(this.part.slice().buffer);
        this.n = 0;
      }
    }
    return true;
  }
}
registerProcessor("microphone", Microphone);
