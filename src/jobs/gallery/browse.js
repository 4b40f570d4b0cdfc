"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const total = data.key.length;
  const id = (name) => document.getElementById(name);
  const [grid, one, search] = [id("grid"), id("one"), id("q")];
  const picks = { sort: id("sort"), show: id("show"), rule: id("rule"), label: id("label"), size: id("size") };

  // Pictures lie in blocks of text, a line each, and are taken out when they are looked at.
  const blocks = { small: [], full: [], way: [] };
  const picture = (kind, row) => {
    const each = data.blocks[kind];
    const at = Math.floor(row / each);
    if (!blocks[kind][at]) {
      const text = id(`${kind}-${at}`);
      // Not read yet, or not in the page.
      if (!text || !text.nextSibling) return null;
      blocks[kind][at] = text.textContent.split("\n");
    }
    const line = blocks[kind][at][row % each];
    return line ? `data:image/${line}` : null;
  };

  const make = (tag, name, text) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const of = (column, row) => (data[column] ? data[column][row] : null);
  const number = (value) => String(Number(value.toPrecision(4)));
  const thousands = (count) => count.toLocaleString("en").replaceAll(",", "\u202f");

  // What is searched, and what stands under a picture.
  const words = [];
  for (let row = 0; row < total; row++) {
    const parts = [of("prompt", row), of("parent", row), data.key[row]];
    words.push(parts.filter((part) => part !== null).join("\n").toLowerCase());
  }
  const state = (row) => {
    if (!data.accepted[row]) return "not accepted";
    const rule = of("rule", row);
    return rule === null || rule === "kept" ? "" : rule;
  };
  const caption = (row) => of("prompt", row) ?? of("parent", row) ?? data.key[row];
  const remark = (row) => {
    const [label, score, rank] = [of("label", row), of("score", row), of("rank", row)];
    const parts = [];
    if (label !== null) parts.push(`class ${label}`);
    if (score !== null) parts.push(`score ${number(score)}`);
    if (rank !== null) parts.push(`rank ${rank}`);
    if (!parts.length) parts.push(of("prompt", row) === null ? `seed ${data.seed[row]}` : data.key[row]);
    return parts.join(" · ");
  };

  // Orders: rows without a value come last whichever way it goes.
  const collator = new Intl.Collator("en", { numeric: true });
  const places = new Map();
  const byKey = () => {
    if (!places.has("key")) {
      const rows = Array.from({ length: total }, (_, row) => row);
      rows.sort((a, b) => collator.compare(data.key[a], data.key[b]));
      const found = new Array(total);
      rows.forEach((row, place) => (found[row] = place));
      places.set("key", found);
    }
    return places.get("key");
  };
  const sorted = (rows, values, sign) =>
    rows.sort((a, b) => {
      const [x, y] = [values[a], values[b]];
      if (x === null || y === null) return (x === null) - (y === null) || a - b;
      return sign * (x - y) || a - b;
    });
  const orders = {
    run: (rows) => rows,
    best: (rows) => sorted(rows, data.score, -1),
    worst: (rows) => sorted(rows, data.score, 1),
    rank: (rows) => sorted(rows, data.rank, 1),
    key: (rows) => sorted(rows, byKey(), 1),
  };

  // What the reader asked for, also as the page's fragment: a link to a view.
  const view = { q: "", sort: "run", show: "all", rule: "all", label: "all", size: "medium", key: "" };
  const usual = { ...view };
  let rows = [];
  const choose = () => {
    const asked = view.q.toLowerCase().split(/\s+/).filter(Boolean);
    const label = view.label === "all" ? null : Number(view.label);
    rows = [];
    for (let row = 0; row < total; row++) {
      if (view.show !== "all" && data.accepted[row] !== (view.show === "accepted")) continue;
      if (view.rule !== "all" && of("rule", row) !== view.rule) continue;
      if (label !== null && of("label", row) !== label) continue;
      if (asked.every((word) => words[row].includes(word))) rows.push(row);
    }
    rows = orders[view.sort](rows);
    id("count").textContent =
      rows.length === total ? `${thousands(total)} images` : `${thousands(rows.length)} of ${thousands(total)} images`;
    id("none").hidden = rows.length > 0;
  };
  const remember = () => {
    const said = new URLSearchParams();
    for (const name of Object.keys(view)) if (view[name] !== usual[name]) said.set(name, view[name]);
    const fragment = said.toString();
    history.replaceState(null, "", fragment ? `#${fragment}` : location.pathname + location.search);
  };
  const recall = () => {
    const said = new URLSearchParams(location.hash.slice(1));
    for (const name of Object.keys(view)) view[name] = said.get(name) ?? usual[name];
    for (const [name, select] of Object.entries(picks)) {
      const known = [...select.options].some((option) => option.value === view[name] && !option.hidden);
      if (!known) view[name] = usual[name];
      select.value = view[name];
    }
    search.value = view.q;
  };

  // Only the cards in sight, and some beyond, are in the document.
  const GAP = 12;
  const sizes = { small: [88, 0], medium: [160, 66], large: [264, 66] };
  const shape = Math.min(Math.max(data.height[0] / data.width[0], 0.3), 3) || 1;
  const cards = new Map();
  let [columns, width, height] = [1, 1, 1];
  const measure = () => {
    const [least, text] = sizes[view.size];
    columns = Math.max(1, Math.floor((grid.clientWidth + GAP) / (least + GAP)));
    width = (grid.clientWidth - GAP * (columns - 1)) / columns;
    height = width * shape + text + GAP;
    grid.style.height = `${Math.max(0, Math.ceil(rows.length / columns) * height - GAP)}px`;
    grid.className = view.size;
  };
  const card = (row) => {
    const button = make("button", "card");
    button.type = "button";
    button.title = caption(row);
    const image = make("img", data.width[row] <= data.pixelated && data.height[row] <= data.pixelated ? "hard" : "");
    image.alt = caption(row);
    image.decoding = "async";
    image.style.height = `${width * shape}px`;
    image.src = picture("small", row);
    button.append(image);
    const why = state(row);
    if (why) button.classList.add("out");
    if (view.size !== "small") {
      button.append(make("span", "caption", caption(row)), make("span", "remark", remark(row)));
      if (why) button.append(make("span", "why", why));
    }
    button.addEventListener("click", () => open(row));
    return button;
  };
  const draw = () => {
    const top = -grid.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor((top - innerHeight / 2) / height)) * columns;
    const last = Math.min(rows.length, Math.max(0, Math.ceil((top + innerHeight * 1.5) / height)) * columns);
    const wanted = new Set(rows.slice(first, last));
    for (const [row, element] of cards) {
      if (!wanted.has(row)) {
        element.remove();
        cards.delete(row);
      }
    }
    for (let place = first; place < last; place++) {
      const row = rows[place];
      let element = cards.get(row);
      if (!element) {
        element = card(row);
        cards.set(row, element);
        grid.append(element);
      }
      const [x, y] = [(place % columns) * (width + GAP), Math.floor(place / columns) * height];
      element.style.width = `${width}px`;
      element.style.height = `${height - GAP}px`;
      element.style.transform = `translate(${x}px, ${y}px)`;
    }
  };
  let due = false;
  const soon = () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      draw();
    });
  };
  const anew = () => {
    cards.forEach((element) => element.remove());
    cards.clear();
    measure();
    draw();
  };
  const asked = () => {
    choose();
    // What is found is shown from its beginning.
    const above = id("bar").offsetTop;
    if (scrollY > above) scrollTo(0, above);
    remember();
    anew();
  };

  // One image and all that is known of it.
  let opened = null;
  const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
  const known = (row) => {
    const facts = [["key", data.key[row]]];
    const add = (name, value) => {
      if (value !== null && value !== undefined && value !== "") facts.push([name, String(value)]);
    };
    add("class", of("label", row));
    add("edit of", of("parent", row));
    add("seed", data.seed[row]);
    add("score", of("score", row));
    add("rank", of("rank", row));
    add("accepted", data.accepted[row] ? "yes" : "no");
    const [rule, value] = [of("rule", row), of("value", row)];
    // What was measured tells nothing more of those that no rule was against.
    const measured = value !== null && rule !== "kept" && rule !== "not-accepted";
    add("filter", measured ? `${rule} (${number(value)})` : rule);
    add("nearly the same as", of("neighbour", row));
    add("pixels", `${data.width[row]} × ${data.height[row]}`);
    for (const [name, values] of Object.entries(data.settings[data.setting[row]])) {
      add(name.replace("_", "-"), values.map(number).join(", "));
    }
    return facts;
  };
  const show = (row) => {
    opened = row;
    const image = id("full");
    image.src = picture("full", row) ?? picture("small", row);
    image.alt = caption(row);
    image.className = data.width[row] <= data.pixelated && data.height[row] <= data.pixelated ? "hard" : "";
    image.style.aspectRatio = `${data.width[row]} / ${data.height[row]}`;
    id("said").textContent = of("prompt", row) ?? "";
    const list = id("known");
    list.replaceChildren();
    for (const [name, value] of known(row)) list.append(make("dt", "", name), make("dd", "", value));
    id("again").hidden = !data.output;
    if (data.output) id("command").textContent = `imagebart sample ${quoted(data.output)} --key=${quoted(data.key[row])}`;
    const way = picture("way", row);
    id("way").hidden = !way;
    if (way) id("steps").src = way;
    const place = rows.indexOf(row);
    id("previous").disabled = place <= 0;
    id("next").disabled = place < 0 || place + 1 >= rows.length;
    view.key = data.key[row];
    remember();
  };
  const open = (row) => {
    show(row);
    if (!one.open) one.showModal();
    id("close").focus();
  };
  const move = (by) => {
    const row = rows[rows.indexOf(opened) + by];
    if (opened !== null && row !== undefined) show(row);
  };
  const copy = async (text, button) => {
    const before = button.textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "copied";
    } catch {
      // Where the browser forbids it, the text is marked for the reader to copy.
      getSelection().selectAllChildren(id("command"));
      button.textContent = "marked";
    }
    setTimeout(() => (button.textContent = before), 1500);
  };

  // The controls that there is something for.
  const offer = (select, column, name) => {
    const counts = new Map();
    for (const value of data[column] ?? []) if (value !== null) counts.set(value, (counts.get(value) ?? 0) + 1);
    const compare = column === "label" ? (a, b) => a - b : (a, b) => counts.get(b) - counts.get(a);
    for (const value of [...counts.keys()].sort(compare)) {
      const option = make("option", "", `${name(value)} (${thousands(counts.get(value))})`);
      option.value = value;
      select.append(option);
    }
    select.parentElement.hidden = counts.size === 0;
  };
  offer(picks.label, "label", (value) => `class ${value}`);
  offer(picks.rule, "rule", (value) => value);
  picks.show.parentElement.hidden = data.accepted.every(Boolean);
  for (const option of picks.sort.options) {
    const column = { best: "score", worst: "score", rank: "rank" }[option.value];
    option.hidden = option.disabled = Boolean(column && !data[column]);
  }

  search.addEventListener("input", () => {
    view.q = search.value;
    asked();
  });
  for (const [name, select] of Object.entries(picks)) {
    select.addEventListener("change", () => {
      view[name] = select.value;
      asked();
    });
  }
  addEventListener("scroll", soon, { passive: true });
  new ResizeObserver(() => {
    if (grid.clientWidth) anew();
  }).observe(grid);
  addEventListener("keydown", (event) => {
    if (one.open && event.key === "ArrowLeft") move(-1);
    else if (one.open && event.key === "ArrowRight") move(1);
    else if (!one.open && event.key === "/" && document.activeElement !== search) {
      event.preventDefault();
      search.focus();
    }
  });
  id("previous").addEventListener("click", () => move(-1));
  id("next").addEventListener("click", () => move(1));
  id("close").addEventListener("click", () => one.close());
  id("copy").addEventListener("click", (event) => copy(id("command").textContent, event.currentTarget));
  one.addEventListener("click", (event) => {
    if (event.target === one) one.close();
  });
  one.addEventListener("close", () => {
    opened = null;
    view.key = "";
    remember();
  });

  const start = () => {
    recall();
    choose();
    anew();
    const row = view.key ? data.key.indexOf(view.key) : -1;
    if (row >= 0) open(row);
    else if (one.open) one.close();
  };
  addEventListener("hashchange", start);
  // Full sizes stand behind this script: an image that was opened by then is shown anew.
  addEventListener("DOMContentLoaded", () => {
    if (opened !== null) show(opened);
  });
  start();
})();
