// Choices of the reader: all are in `state`, which is also the part of the address after "#", so that a link keeps them.

const state = Object.create(null);

function readAddress() {
  for (const key of Object.keys(state)) delete state[key];
  for (const [key, value] of new URLSearchParams(location.hash.slice(1))) state[key] = value;
}

let remembering;

function update(changes) {
  Object.assign(state, changes);
  render(Object.keys(changes));
  clearTimeout(remembering); // browsers limit how often the address may change
  remembering = setTimeout(() => history.replaceState(null, "", showLink()), 300);
}

function showLink() {
  byId("link").href = `#${new URLSearchParams(state)}`;
  return byId("link").href;
}

// The value of a choice: that of the state if it is among the options, else the default, else the last option.
function choose(key, options, fallback) {
  const value = [state[key], fallback].map(String).find((wanted) => options.map(String).includes(wanted));
  state[key] = value ?? String(options.at(-1));
  return options.find((option) => String(option) === state[key]);
}

// The same for a number, which `allowed` maps to a valid one.
function chooseNumber(key, fallback, allowed) {
  const value = parseFloat(state[key]);
  const chosen = allowed(Number.isFinite(value) ? value : fallback);
  state[key] = String(chosen);
  return chosen;
}

// The same for a box that is ticked or not.
function chooseFlag(key) {
  byId(key).checked = choose(key, ["on", "off"], "off") === "on";
  return byId(key).checked;
}

// A run to show beside the chosen one; undefined for none.
function chooseBeside(key, runs, name) {
  const names = runs.map(name);
  const chosen = choose(key, ["none", ...names], "none");
  showOptions(key, ["none", ...names]);
  return runs[names.indexOf(chosen)];
}

function showOptions(id, options, label = String) {
  const select = byId(id);
  select.replaceChildren(...options.map((option) => new Option(label(option), option)));
  select.value = state[id];
  select.disabled = options.length < 2;
}

function showSlider(id, options, label) {
  const slider = byId(id);
  const position = options.map(String).indexOf(state[id]);
  Object.assign(slider, { max: options.length - 1, value: position, disabled: options.length < 2 });
  if (byId(`${id}-play`)) byId(`${id}-play`).disabled = slider.disabled;
  showValue(id, label(options[position]));
}

function showValue(id, text) {
  byId(id).setAttribute("aria-valuetext", text);
  byId(`${id}-value`).textContent = text;
}

// Play moves a slider step by step to its end, from the start if it is there already; so does the space bar on it.
function makePlayer(id, steps, milliseconds) {
  const slider = byId(id);
  const button = byId(`${id}-play`);
  let timer = null;
  const show = () => { button.textContent = timer === null ? "Play" : "Pause"; };
  const stop = () => { clearInterval(timer); timer = null; show(); };
  const move = (value) => { slider.value = value; slider.dispatchEvent(new Event("input")); };
  const advance = () => {
    move(Number(slider.value) + (slider.max - slider.min) / (steps ?? slider.max - slider.min));
    if (Number(slider.value) >= Number(slider.max)) stop();
  };
  const toggle = () => {
    if (timer !== null) return stop();
    if (Number(slider.value) >= Number(slider.max)) move(slider.min);
    timer = setInterval(advance, milliseconds);
    show();
  };
  button.addEventListener("click", toggle);
  slider.addEventListener("keydown", (event) => {
    if (event.key !== " ") return;
    event.preventDefault();
    toggle();
  });
}
