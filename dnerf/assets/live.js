// Sound to the server, pictures with their sound from it. One clock, that of the sound card: a picture is drawn while its sound is heard.
"use strict";
const RATE = 16000, FRAME = 0.04, LEAD = 0.06;           // Hz; seconds of a frame; seconds that a packet should come too early
const $ = id => document.getElementById(id), pen = $("picture").getContext("2d");
const live = { base: null, least: Infinity, frames: new Map(), drawn: -1, shown: 0, skip: 0 };
window.live = live;                                      // for tests

function say(text, fault) {
  $("said").textContent = text.charAt(0).toUpperCase() + text.slice(1);
  $("said").className = fault ? "fault" : "";
}

// ---- sound and pictures that come -------------------------------------------------------------------------------------------------------

const now = () => live.sound.currentTime;
const due = i => live.base + i * FRAME;                  // when the sound of frame i begins, seconds of the sound card

function receive(buffer) {                               // frame number, size of the sound, sound, JPEG (empty where there was no time)
  const head = new DataView(buffer), i = head.getUint32(0, true), n = head.getUint32(4, true);
  if (live.base === null) live.base = now() + LEAD - i * FRAME;
  const lead = due(i) - now();
  if (lead < 0.005) live.base += LEAD / 2 - lead;        // late: a gap in the sound, and the picture waits with it
  live.least = Math.min(live.least, lead);
  if (i % 50 === 49) {                                   // every two seconds: too early is delay for nothing
    live.skip = Math.floor((live.least - LEAD) / FRAME);
    live.least = Infinity;
  }
  if (live.skip > 0) {
    live.skip--;
    live.base -= FRAME;
    return;
  }
  const pcm = new Int16Array(buffer, 8, n / 2), part = live.sound.createBuffer(1, pcm.length, RATE), to = part.getChannelData(0);
  for (let k = 0; k < pcm.length; k++) to[k] = pcm[k] / 32768;
  const source = live.sound.createBufferSource();
  source.buffer = part;
  source.connect(live.out);
  source.start(due(i));
  if (buffer.byteLength > 8 + n)
    createImageBitmap(new Blob([new Uint8Array(buffer, 8 + n)], { type: "image/jpeg" })).then(image => live.frames.set(i, image));
}

function draw() {
  if (live.base !== null) {
    const heard = now() - (live.sound.outputLatency || 0);
    let newest = -1;
    for (const i of live.frames.keys()) if (due(i) <= heard && i > newest) newest = i;
    for (const [i, image] of live.frames) {
      if (i > newest) continue;
      if (i === newest && i > live.drawn) {
        if ($("picture").width !== image.width) $("picture").width = $("picture").height = image.width;
        pen.drawImage(image, 0, 0);
        live.drawn = i;
        live.shown++;
      }
      image.close();
      live.frames.delete(i);
    }
  }
  requestAnimationFrame(draw);
}

// ---- the microphone ---------------------------------------------------------------------------------------------------------------------

const FAULTS = {
  NotAllowedError: "The browser may not use the microphone. Allow it for this page (the symbol beside the address), and start again.",
  NotFoundError: "There is no microphone. Plug one in and start again, or give dnerf live a file with --speech.",
  NotReadableError: "The microphone is used by another program. Close that one, and start again.",
};

async function microphone(socket) {
  if (!navigator.mediaDevices)
    throw new Error("Browsers give a microphone only to 127.0.0.1, localhost or https. Open this page on the machine that runs dnerf live.");
  const stream = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: true, noiseSuppression: false } })
    .catch(e => { throw new Error(FAULTS[e.name] || `The microphone cannot be used: ${e.message || e.name}.`); });
  live.input = new AudioContext();
  await live.input.audioWorklet.addModule("microphone.js");
  const node = new AudioWorkletNode(live.input, "microphone", { numberOfOutputs: 0 });
  live.input.createMediaStreamSource(stream).connect(node);
  stream.getTracks()[0].onended = () => stop("The microphone is gone. Plug it in and start again.", true);
  live.stream = stream;
  return { rate: live.input.sampleRate, begin: () => (node.port.onmessage = e => socket.readyState === 1 && socket.send(e.data)) };
}

// ---- start and stop ---------------------------------------------------------------------------------------------------------------------

function stop(text, fault) {
  if (text) say(text, fault);
  live.socket?.close();
  live.stream?.getTracks().forEach(track => track.stop());
  live.input?.close();
  live.sound?.close();
  live.frames.forEach(image => image.close());
  live.frames.clear();
  Object.assign(live, { socket: null, stream: null, input: null, sound: null, base: null, least: Infinity, drawn: -1, skip: 0 });
  $("start").textContent = "Start";
}

async function start() {
  const socket = live.socket = new WebSocket(`ws${location.protocol === "https:" ? "s" : ""}://${location.host}/sound`);
  live.sound = new AudioContext({ sampleRate: RATE, latencyHint: "interactive" });
  live.out = live.sound.createGain();
  live.out.connect(live.sound.destination);
  $("start").textContent = "Stop";
  say("Connecting …");
  socket.binaryType = "arraybuffer";
  socket.onclose = e => live.socket === socket && stop(e.reason || "The connection was closed. Is dnerf live still running?", true);
  socket.onmessage = async ({ data }) => {
    if (live.socket !== socket) return;
    if (typeof data !== "string") return receive(data);
    const message = JSON.parse(data);
    if (message.fault) return stop(message.fault, true);
    if (message.end) return setTimeout(() => live.socket === socket && stop(message.end), 1000);
    if (message.numbers) $("numbers").textContent = message.numbers;
    if (message.said) say(message.said);
    if (message.go) {                                    // the stream is open: what is said from now on is heard
      live.begin();
      say(message.go);
    }
    if (!("microphone" in message)) return;
    try {
      const source = message.microphone ? await microphone(socket) : { rate: 0, begin() {} };
      await live.sound.resume();
      live.begin = source.begin;
      socket.send(JSON.stringify({ rate: source.rate }));
    } catch (e) {
      stop(e.message, true);
    }
  };
}

$("start").onclick = () => (live.socket ? stop("Stopped.") : start());
requestAnimationFrame(draw);
