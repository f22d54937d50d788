// The page of `dnerf app`. It asks for the state of the jobs every second and stores nothing.
'use strict';
const LIMIT = 2 * 2 ** 30; // bytes of an upload, as in dnerf.app.page
const MOST_RUNS = 8; // side by side, as in dnerf.evaluation.compare
const $ = (q, root = document) => root.querySelector(q), $$ = (q, root = document) => [...root.querySelectorAll(q)];
const make = (tag, props = {}, ...children) => {
  const e = Object.assign(document.createElement(tag), props);
  e.append(...children);
  return e;
};
const page = window.page = { jobs: [], shelf: { subjects: [], runs: [], voices: {} }, taken: {}, seen: {} };
const fileUrl = path => path.split('/').map(encodeURIComponent).join('/');

async function ask(address, body) {
  const answer = await fetch(address, body === undefined ? {} : { method: 'POST', body: JSON.stringify(body) });
  const got = await answer.json().catch(() => ({ fault: `The page got an answer that it does not know (${answer.status}); load it again.` }));
  if (got.fault) throw new Error(got.fault);
  return got;
}
function say(place, text, fault = false) {
  place.textContent = text;
  place.classList.toggle('fault', fault);
}
const capital = text => text.charAt(0).toUpperCase() + text.slice(1);
const gone = e => e instanceof TypeError ? 'The program behind this page does not answer; is dnerf app still running?' : e.message;

// tabs ------------------------------------------------------------------------------------------------------------------------------
function show(name) {
  for (const tab of $$('[role=tab]')) {
    const on = tab.id === `tab-${name}`;
    tab.setAttribute('aria-selected', on);
    tab.tabIndex = on ? 0 : -1;
    $('#' + tab.getAttribute('aria-controls')).hidden = !on;
  }
  history.replaceState(null, '', '#' + name); // no element is called so: the browser would scroll to it, past the header
  if (name !== 'compare') return;
  compare();
  if (page.asked) shelf().catch(() => {}); // a run may have been evaluated in a terminal
}
$$('[role=tab]').forEach((tab, i, all) => {
  tab.onclick = () => show(tab.id.slice(4));
  tab.onkeydown = e => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
    if (step) { const next = all.at((i + step) % all.length); next.focus(); next.click(); }
  };
});

// files: dropped, chosen or recorded -------------------------------------------------------------------------------------------------
function upload(file, name, told) {
  return new Promise((done, failed) => {
    if (file.size > LIMIT) {
      return failed(new Error(`The file has ${(file.size / 2 ** 30).toFixed(1)} GB, and 2 GB are the most for a page; cut it, `
                              + 'or give its path to dnerf prepare in a terminal'));
    }
    const request = new XMLHttpRequest();
    request.open('POST', 'upload?name=' + encodeURIComponent(name));
    request.upload.onprogress = e => told(`uploading ${name}: ${Math.floor(100 * e.loaded / (e.total || 1))} %`);
    request.onload = () => {
      let got = {};
      try { got = JSON.parse(request.responseText); } catch { got = { fault: `The upload was refused (${request.status})` }; }
      got.fault ? failed(new Error(got.fault)) : done(got);
    };
    request.onerror = () => failed(new Error('The upload did not arrive; is dnerf app still running?'));
    request.send(file);
  });
}
function taker(place) {
  const kind = place.dataset.kind, video = kind === 'video', form = place.closest('form'), said = $('.said', form);
  const input = make('input', { type: 'file', accept: video ? 'video/*,.mkv,.mts' : 'audio/*,video/*' });
  const idle = video ? 'Drop a video here, or choose a file' : 'Drop speech here, any file with sound, or choose one';
  const text = make('span', { textContent: idle }), drop = make('label', { className: 'drop' }, input, text);
  const record = make('button', { type: 'button', textContent: video ? 'Record with the camera' : 'Record with the microphone' });
  const player = make(video ? 'video' : 'audio', { controls: true, hidden: true, playsInline: true });
  place.append(drop, make('div', { className: 'buttons' }, record), player);
  async function take(file, name) {
    page.taken[kind] = null;
    say(said, '');
    try {
      const got = await upload(file, name, t => { text.textContent = t; });
      if (!video) $('#words').value = '';                    // what was given last counts
      text.textContent = `${got.name}, ${got.bytes < 1e6 ? Math.ceil(got.bytes / 1e3) + ' kB' : (got.bytes / 1e6).toFixed(1) + ' MB'}. Another one can be dropped here.`;
      accept(got, URL.createObjectURL(file));
    } catch (e) {
      text.textContent = idle;
      player.hidden = true;
      say(said, gone(e), true);
    }
  }
  function accept(got, address) {
    page.taken[kind] = got;
    player.srcObject = null;
    Object.assign(player, { src: address, hidden: false, muted: false });
  }
  place.accept = (got, address) => { text.textContent = got.name; accept(got, address); };
  input.onchange = () => { if (input.files[0]) take(input.files[0], input.files[0].name); input.value = ''; };
  for (const [name, over] of [['dragover', true], ['dragleave', false], ['drop', false]]) {
    drop.addEventListener(name, e => {
      e.preventDefault();
      drop.classList.toggle('over', over);
      if (name === 'drop' && e.dataTransfer.files[0]) take(e.dataTransfer.files[0], e.dataTransfer.files[0].name);
    });
  }
  let recorder = null;
  record.onclick = async () => {
    if (recorder) return recorder.stop();
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ audio: true, video: video && { width: 1280, height: 720 } });
      const parts = [], label = record.textContent, begun = Date.now();
      recorder = new MediaRecorder(stream);
      recorder.ondataavailable = e => parts.push(e.data);
      if (video) { Object.assign(player, { srcObject: stream, muted: true, hidden: false }); player.play(); }
      const clock = setInterval(() => { record.textContent = `Stop (${Math.round((Date.now() - begun) / 1000)} s)`; }, 250);
      recorder.onstop = () => {
        clearInterval(clock);
        stream.getTracks().forEach(t => t.stop());
        record.textContent = label;
        recorder = null;
        const stamp = new Date().toISOString().slice(0, 19).replace(/\D/g, '');
        take(new Blob(parts, { type: parts[0]?.type }), `recording-${stamp}.webm`);
      };
      recorder.start(1000);
    } catch (e) {
      recorder = null;
      const which = video ? 'camera and microphone' : 'microphone';
      say(said, e.name === 'NotAllowedError' ? `The browser does not allow the ${which}; allow it beside the address, and try again.`
        : `There is no ${which} that can be used; give a file instead.`, true);
    }
  };
}
$$('.take').forEach(taker);

// orders ----------------------------------------------------------------------------------------------------------------------------
function fields(form) {
  const out = {};
  for (const e of form.elements) {
    if (e.name && !(e.type === 'range' && e.value === e.defaultValue)) out[e.name] = e.type === 'checkbox' ? e.checked : e.value;
  }
  return out;
}
function ordering(id, verb, more) {
  const form = $('#' + id), said = $('.said', form), button = $('.main', form);
  form.addEventListener('input', () => say(said, ''));       // what was said of the last order is over
  form.onsubmit = async e => {
    e.preventDefault();
    button.disabled = true;
    say(said, 'One moment: the order is being checked.');
    try {
      const got = await ask('jobs', { verb, ...fields(form), ...await more() });
      page.seen[got.id] = 'waiting';
      say(said, page.jobs.some(j => j.state === 'running') ? 'It waits for the job that is running.' : 'It has begun; see Jobs.');
      await look();
    } catch (e) { say(said, gone(e), true); }
    button.disabled = false;
  };
}
function need(kind, sentence) {
  if (!page.taken[kind]) throw new Error(sentence);
  return { [kind]: page.taken[kind].file };
}
ordering('prepare', 'prepare', () => {
  const video = need('video', 'Give a video first.');
  if (!$('#consent').checked) throw new Error('A portrait needs the consent of the person shown; check the box if it was given.');
  return video;
});
ordering('train', 'train', () => ({}));
ordering('drive', 'drive', async () => {
  if ($('#words').value.trim() && page.taken.speech?.of !== typed()) await synthesise(); // typed, or changed, since it was spoken
  return need('speech', 'Give speech first: a file, a recording, or a text.');
});
ordering('liveform', 'live', () => ({}));
$$('input[type=range]').forEach(e => {
  const tell = () => { e.previousElementSibling.textContent = Number(e.value).toFixed(1); };
  e.oninput = tell;
  tell();
});
const typed = () => $('#voice').value + '\n' + $('#words').value.trim();
async function synthesise() {
  const voice = $('#voice').value, of = typed(), got = await ask('speak', { text: $('#words').value, voice });
  $('.take[data-kind=speech]').accept({ ...got, of }, 'uploads/' + fileUrl(got.file));
  return `Spoken by ${page.shelf.voices[voice]} with the program ${voice.split(' ')[0]}, on this machine.`;
}
$('#synthesise').onclick = async e => {
  const said = $('#drive .said'), button = e.target;
  button.disabled = true;
  try { say(said, await synthesise()); } catch (e) { say(said, gone(e), true); }
  button.disabled = false;
};

// jobs ------------------------------------------------------------------------------------------------------------------------------
const WORDS = { waiting: 'waits', running: 'runs', done: 'done', failed: 'failed', stopped: 'stopped; it can go on', interrupted: 'interrupted; it can go on' };
function buttons(job) {
  const out = [], add = (text, what) => out.push(make('button', { className: 'small', type: 'button', textContent: text, onclick: async () => {
    try { await ask(`jobs/${job.id}/${what}`, {}); } catch (e) { alert(gone(e)); }
    await look();
  } }));
  if (job.state === 'running' || job.state === 'waiting') add('Stop', 'stop');
  if (['stopped', 'interrupted'].includes(job.state)) add('Continue', 'go_on');
  if (job.state === 'failed') add('Try again', 'go_on');
  if (job.state !== 'running') add('Remove', 'remove');
  out.push(make('a', { href: `jobs/${job.id}/log`, target: '_blank', rel: 'noopener', textContent: 'log' }));
  if (job.state === 'done' && job.verb === 'drive' && job.made) {
    out.push(make('button', { className: 'small', type: 'button', textContent: 'Watch', onclick: () => watch(job.made) }));
    out.push(make('a', { href: 'runs/' + fileUrl(job.made), download: '', textContent: 'download' }));
  }
  if (job.state === 'done' && job.verb === 'train' && job.made) {
    const run = job.made.split('/').slice(0, 2).join('/');
    out.push(make('a', { href: 'runs/' + fileUrl(run) + '/report.html', target: '_blank', rel: 'noopener', textContent: 'report' }));
    out.push(make('button', { className: 'small', type: 'button', textContent: 'Let it speak', onclick: () => choose(run) }));
  }
  return out;
}
const hasBar = job => job.progress.fraction !== undefined;
const meter = job => job.state === 'running' ? [make('progress', hasBar(job) ? { max: 1, value: job.progress.fraction } : {})] : [];
function stateOf(job) {
  if (hasBar(job)) return `${job.progress.what}: ${Math.round(100 * job.progress.fraction)} %` + (job.progress.left ? `, ${job.progress.left} left` : '');
  const state = job.stopping && job.state === 'running' ? 'is being stopped' : WORDS[job.state];
  return job.state === 'running' && job.lines.length ? `${state}: ${job.lines.at(-1)}` : state;
}
function rowOf(job) {
  const out = make('div', { className: `job ${job.state}` });
  out.dataset.id = job.id;
  out.append(make('b', { textContent: capital(job.title) }), make('span', { className: 'state', textContent: stateOf(job) }), ...meter(job));
  if (job.fault || job.doubt) out.append(make('span', { className: 'fault', textContent: job.fault || capital(job.doubt) }));
  out.append(make('div', { className: 'buttons' }, ...buttons(job)));
  return out;
}
function now(jobs) { // for a phone, where the list is below everything else
  const job = jobs.find(j => j.state === 'running') || jobs.find(j => j.id === page.news), place = $('#now');
  const text = job ? JSON.stringify(job) : '';
  place.hidden = !job;
  if (!job || place.text === text) return;
  place.text = text;
  place.className = job.state;
  const said = job.fault || (hasBar(job) && job.progress.what.toLowerCase() === job.title.toLowerCase() ? stateOf(job).split(': ').at(-1) : stateOf(job));
  place.replaceChildren(make('b', { textContent: capital(job.title) }), make('span', { className: 'state', textContent: said }), ...meter(job));
}
$('#now').onclick = () => {
  page.news = '';
  $('aside').scrollIntoView({ behavior: 'smooth' });
};
function draw(jobs) {
  const place = $('#jobs'), old = Object.fromEntries([...place.children].map(e => [e.dataset.id, e]));
  jobs.forEach((job, i) => {
    const text = JSON.stringify(job);
    let row = old[job.id];
    if (!row || row.text !== text) {
      const next = Object.assign(rowOf(job), { text });
      if (row) row.replaceWith(next);
      row = next;
    }
    if (place.children[i] !== row) place.insertBefore(row, place.children[i] || null);
  });
  while (place.children.length > jobs.length) place.lastChild.remove();
  $('#nojobs').hidden = jobs.length > 0;
}
const FORMS = { prepare: '#prepare', train: '#train', drive: '#drive', live: '#liveform' };
function ended(job) { // what follows from a job that has just ended
  const said = $(`${FORMS[job.verb]} .said`);
  if (!said.classList.contains('fault')) say(said, '');
  if (job.state !== 'done') return;
  if (job.verb === 'prepare') page.wanted = job.made;
  if (job.verb === 'train' && !page.chosen) page.wantedRun = job.made.split('/').slice(0, 2).join('/');
  if (job.verb === 'drive') page.film = job.made;
}
async function look() {
  try {
    const got = await ask('state');
    page.jobs = got.jobs;
    $('#gone').hidden = true;
    $('#home').textContent = `Everything is kept in ${got.home}; uploads, recordings and spoken texts in its folder uploads: speech until the last job that names it is removed, videos until you delete them.`;
    draw(got.jobs);
    let changed = false;
    for (const job of got.jobs) {
      const before = page.seen[job.id];
      page.seen[job.id] = job.state;
      if (before && before !== job.state && !['waiting', 'running'].includes(job.state)) { ended(job); page.news = job.id; changed = true; }
    }
    now(got.jobs);
    const live = got.jobs.find(j => j.verb === 'live' && j.state === 'running' && j.made);
    $('#open').hidden = !live;
    if (live) $('#open a').href = live.made;
    const training = page.shelf.runs.some(r => r.state === 'in training') || got.jobs.some(j => j.verb === 'train' && j.state === 'running');
    if (changed || training && Date.now() - page.asked > 8000) await shelf();
  } catch (e) {
    if (e instanceof TypeError) $('#gone').hidden = false;
    else throw e;
  }
}

// what there is -------------------------------------------------------------------------------------------------------------------------
function options(select, rows, wanted) { // value, text, and why it cannot be chosen
  const value = wanted || select.value;
  if (select.length !== rows.length || rows.some(([v], i) => select.options[i].value !== v)) { // else an open list stays open
    select.replaceChildren(...rows.map(([v]) => make('option', { value: v })));
  }
  rows.forEach(([, t, why], i) => Object.assign(select.options[i], { textContent: why ? `${t}: ${why}` : t, disabled: Boolean(why) }));
  const free = rows.filter(([, , why]) => !why).map(([v]) => v);
  select.value = free.includes(value) ? value : free[0] ?? '';
}
function scored(run) {
  return `${run.name}${run.psnr_face === null ? '' : ` (${run.psnr_face.toFixed(1)} dB face)`}`;
}
function report() {
  const subject = page.shelf.subjects.find(s => s.name === $('#train [name=subject]').value), place = $('#report');
  place.hidden = !subject?.report;
  const lines = (subject?.report || '').split('\n'), warning = line => line.startsWith('warning');
  const rank = line => warning(line) ? 0 : line.startsWith('training') ? 1 : 2; // what this form is about comes first
  place.replaceChildren(...lines.sort((a, b) => rank(a) - rank(b)).map(line => make(
    'span', { className: warning(line) ? 'warning' : '', textContent: line + '\n' })));
}
function figure(path, caption, preload = 'metadata') {
  const address = 'runs/' + fileUrl(path), link = make('a', { href: address, download: '', textContent: 'download' });
  return make('figure', {}, make('video', { src: address, controls: true, preload, playsInline: true }),
              make('figcaption', {}, make('span', { textContent: caption }), link));
}
function films() {
  const run = page.shelf.runs.find(r => r.name === $('#drive [name=run]').value), place = $('#films .grid');
  const paths = [...(run?.films || [])];
  if (page.film && !paths.includes(page.film)) paths.unshift(page.film);
  paths.sort((a, b) => (b === page.film) - (a === page.film));
  $('#films h2').textContent = run ? `Films of ${run.name}` : 'Films';
  $('#films .hint').hidden = paths.length > 0;
  if (place.text !== paths.join()) place.replaceChildren(...paths.map(p => figure(p, p.split('/').at(-1))));
  place.text = paths.join();
}
function choose(run, film = '') { // a portrait, and a film that stands first
  show('speak');
  if (page.shelf.runs.some(r => r.name === run && !r.waits)) $('#drive [name=run]').value = run;
  page.chosen = true;
  page.film = film;
  films();
}
function watch(path) { // a film of the list of jobs
  choose(path.split('/').slice(0, 2).join('/'), path);
  const film = $('#films video');
  film?.scrollIntoView({ block: 'center' });
  film?.play().catch(() => {}); // a browser may ask for a click first
}
// The page of `dnerf compare` in a frame, made anew when the choice changes, or a run or its evaluation does.
function compare() {
  const chosen = $$('#choice input:checked').map(e => e.value), frame = $('#beside'), enough = chosen.length > 1;
  for (const e of $$('#choice label:not(.off) input:not(:checked)')) e.disabled = chosen.length >= MOST_RUNS;
  frame.hidden = $('#alone').hidden = !enough;
  $('#few').hidden = enough;
  if (!enough || $('#panel-compare').hidden) return;
  const address = 'compare?' + new URLSearchParams(chosen.map(name => ['run', name]));
  const key = page.shelf.runs.filter(r => chosen.includes(r.name)).map(r => [r.name, r.date, r.measured]).join();
  for (const a of $$('#alone a')) a.href = address;
  if (frame.key === key) return;
  frame.key = key;
  say($('#alone .hint'), 'The page is being made.');
  frame.src = address;
}
$('#beside').onload = () => say($('#alone .hint'), '');
function choice() {
  const chosen = $$('#choice input:checked').map(e => e.value), all = page.shelf.runs, runs = all.filter(r => !r.unmeasured);
  const kin = run => runs.filter(r => r.name.split('/')[0] === run.name.split('/')[0]), pair = runs.find(r => kin(r).length > 1);
  const names = page.picked ? chosen : (pair ? kin(pair) : runs).slice(0, 2).map(r => r.name); // the newest two of one person, at first
  $('#choice').replaceChildren(...[...runs, ...all.filter(r => r.unmeasured)].map(r => make('label', { className: r.unmeasured && 'off' }, make('input', {
    type: 'checkbox', value: r.name, checked: names.includes(r.name), disabled: Boolean(r.unmeasured),
    onchange: () => { page.picked = true; compare(); } }), r.unmeasured ? `${r.name}: ${r.unmeasured}` : r.name)));
  if (!all.length) $('#choice').replaceChildren(make('span', { className: 'hint', textContent: 'There is no run yet.' }));
}
function spoken() { // the voices, by program
  const place = $('#voice'), all = Object.entries(page.shelf.voices), text = JSON.stringify(all), value = place.value;
  $('#text').hidden = !all.length;
  if (place.text === text) return;
  place.text = text;
  place.replaceChildren(...[...new Set(all.map(([v]) => v.split(' ')[0]))].map(program => make('optgroup', { label: `by the program ${program}` }, ...all.filter(
    ([v]) => v.startsWith(program + ' ')).map(([v, name]) => make('option', { value: v, textContent: name })))));
  if (page.shelf.voices[value]) place.value = value;
}
async function shelf() {
  page.asked = Date.now();
  page.shelf = await ask('shelf');
  options($('#train [name=subject]'), page.shelf.subjects.length ? page.shelf.subjects.map(s => [s.name, s.name]) : [['', 'prepare a video first']], page.wanted);
  for (const [form, why] of [['#drive', 'waits'], ['#liveform', 'late']]) {
    const runs = page.shelf.runs.map(r => [r.name, scored(r), r[why]]).sort((a, b) => Boolean(a[2]) - Boolean(b[2])); // usable ones first
    if (!runs.length || runs[0][2]) runs.unshift(['', runs.length ? 'no portrait is ready yet' : 'train a portrait first']);
    options($(`${form} .runs`), runs, page.wantedRun);
  }
  const still = page.shelf.subjects.map(s => [s.name, `moves as ${s.name}`]);
  options($('#drive [name=motion]'), [['', 'moves as in training'], ['still', 'still'], ...still]);
  spoken();
  page.wanted = page.wantedRun = '';
  report();
  films();
  choice();
  compare();
  $('#command').textContent = `dnerf live ${$('#liveform [name=run]').value}`;
}
$('#train [name=subject]').onchange = report;
$('#drive [name=run]').onchange = () => { page.film = ''; page.chosen = true; films(); }; // no training that ends replaces a choice
$('#liveform [name=run]').onchange = e => { $('#command').textContent = `dnerf live ${e.target.value}`; };

show($$('[role=tab]').map(t => t.id.slice(4)).includes(location.hash.slice(1)) ? location.hash.slice(1) : 'portrait');
(async () => {
  await shelf().catch(() => {});
  for (;;) {
    await look().catch(e => console.error(e));
    await new Promise(done => setTimeout(done, document.hidden ? 3000 : 1000));
  }
})();
