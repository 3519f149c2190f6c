// Hands volumes in, file by file, each with its bar and its answer. Without this script the form sends all of them at once.
"use strict";
(() => {
  const form = document.getElementById("import-form");
  const outcome = document.getElementById("outcome");
  if (!form || !outcome) return;
  const FILE_BYTES_MAX = 2 ** 30;
  const inputs = ["folder", "manifest", "slots"].map((id) => document.getElementById(id));
  document.getElementById("folder-field").hidden = false;
  inputs.forEach((input) => { input.required = false; });

  const add = (parent, tag, text = "", attributes = {}) => {
    const element = document.createElement(tag);
    element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return parent.appendChild(element);
  };

  // POSTs octets; what came as JSON. An answer that says why not is an error with that text.
  const post = (path, body, onProgress) => new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    request.setRequestHeader("content-type", "application/octet-stream");
    if (onProgress) request.upload.addEventListener("progress", (event) => onProgress(event.loaded));
    request.addEventListener("load", () => {
      let answer = {};
      try { answer = JSON.parse(request.responseText); } catch { /* said below */ }
      if (request.status === 200) return resolve(answer);
      const why = request.status === 401 ? "you are not signed in any more" : answer.error;
      reject(new Error(why ?? `it is answered with status ${request.status}`));
    });
    request.addEventListener("error", () => reject(new Error("the connection broke off, or the file could not be read")));
    request.send(body);
  });

  // diodesync-EXPORT-NNN/FILE: the folder says which export a file is of. Without one, it is that of the manifest.
  const place = (file) => {
    const parts = (file.webkitRelativePath || file.name).split("/");
    const folder = parts.length > 1 ? parts[parts.length - 2] : "";
    const named = /^diodesync-([0-9a-f]{16})-\d{3}$/.exec(folder);
    return { folder, named: named ? named[1] : null, name: parts[parts.length - 1] };
  };

  const table = () => {
    const box = add(outcome, "div", "", { class: "table" });
    const table = add(box, "table");
    const head = add(add(table, "thead"), "tr");
    for (const title of ["File", "State"]) add(head, "th", title);
    for (const title of ["Pieces", "New", "Damaged"]) add(head, "th", title, { class: "num" });
    return add(table, "tbody");
  };

  const row = (body, name) => {
    const line = add(body, "tr");
    add(line, "td", name, { class: "name" });
    return { line, said: add(line, "td") };
  };

  const sendFile = async (body, exported, file) => {
    const { folder, name } = place(file);
    const { line, said } = row(body, folder ? `${folder}/${name}` : name);
    const label = `${name}, octets that are sent`;
    const bar = add(said, "progress", "", { max: Math.max(file.size, 1), value: 0, "aria-label": label });
    try {
      if (file.size > FILE_BYTES_MAX) throw new Error("it is larger than any file of a volume");
      const path = `/api/v1/imports/${exported}/slots?first=${Number.parseInt(name, 10)}`;
      const taken = await post(path, file, (sent) => { bar.value = sent; });
      said.textContent = taken.damaged.length ? "taken, in part damaged" : "taken";
      for (const number of [taken.slots, taken.new, taken.damaged.length]) add(line, "td", String(number), { class: "num" });
      return true;
    } catch (error) {
      said.textContent = `not taken: ${error.message}`;
      return false;
    }
  };

  const begin = async (exported, manifests) => {
    const refused = [];
    for (const manifest of manifests) {
      try {
        return await post("/api/v1/imports", manifest);
      } catch (error) {
        refused.push(error.message);
      }
    }
    if (!exported) throw new Error(refused[0] ?? "choose a volume's manifest too");
    try {
      return await post(`/api/v1/imports/${exported}/resume`, "");
    } catch (error) {
      throw new Error(refused[0] ?? error.message);
    }
  };

  const conclude = (exported, done) => {
    const card = add(outcome, "div", "", { class: "card", "data-export": exported });
    add(card, "h3", `Export ${exported}`);
    const isWhole = done.missing_slots === 0 || done.was_whole;
    const whole = done.was_whole
      ? "All of it came before."
      : "Everything is here. It is checked now; the overview shows how far it is.";
    add(card, "p", isWhole ? whole : "Not whole yet. Hand in further volumes, on any day.");
    if (done.repaired > 0) add(card, "p", `${done.repaired} pieces were repaired by parity.`);
    if (!isWhole) {
      const list = add(card, "ul");
      for (const { volume, slots } of done.missing) {
        add(list, "li", `Volume ${String(volume).padStart(3, "0")}: ${slots} pieces are missing`);
      }
    }
    for (const why of done.dropped) add(card, "p", `Not kept: ${why}`);
  };

  const handIn = async () => {
    const files = inputs.flatMap((input) => [...input.files]);
    // What a folder names goes to that export; the rest to that of the manifest beside it.
    const groups = new Map();
    for (const file of files) {
      const { named, name } = place(file);
      const group = groups.get(named) ?? groups.set(named, { manifests: [], slots: [] }).get(named);
      if (name === "manifest") group.manifests.push(file);
      else if (/^\d+\.slots$/.test(name)) group.slots.push(file);
    }
    groups.forEach(({ manifests, slots }, named) => {
      if (!manifests.length && !slots.length) groups.delete(named);
    });
    if (!groups.size) throw new Error("there is no file of a volume among what was chosen");
    for (const [named, { manifests, slots }] of groups) {
      const { export: exported } = await begin(named, manifests);
      if (named && exported !== named) {
        throw new Error(`the manifest in the folder of export ${named} is of export ${exported}`);
      }
      const order = (file) => `${place(file).folder}/${place(file).name}`;
      slots.sort((a, b) => (order(a) < order(b) ? -1 : 1));
      const body = table();
      for (const file of slots) await sendFile(body, exported, file);
      conclude(exported, await post(`/api/v1/imports/${exported}/finish`, ""));
    }
  };

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button");
    outcome.replaceChildren();
    outcome.dataset.state = "busy";
    button.disabled = true;
    try {
      await handIn();
      outcome.dataset.state = "done";
      form.reset();
    } catch (error) {
      add(outcome, "p", `Not done: ${error.message}`, { role: "alert", class: "card" });
      outcome.dataset.state = "failed";
    }
    button.disabled = false;
  });
})();
