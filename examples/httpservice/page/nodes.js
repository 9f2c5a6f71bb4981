// The table of the nodes of the run that the page shows. Data from nodes is only
// ever set as text, never as HTML.

import {Screen} from "./terminal.js";

const element = (id) => document.getElementById(id);
const nodes = new Map(); // by name
const changed = new Set(); // the nodes whose rows must be drawn again
const names = []; // sorted
let drawing, pause = 50; // ms until changes are drawn: one drawing for many events

// clear removes all nodes.
export function clear() {
	nodes.clear();
	changed.clear();
	names.length = 0;
	element("rows").replaceChildren();
	element("cut").textContent = "";
}

// apply applies an event of a node. No event comes twice: after a reconnect, an
// EventSource gets only the events that follow.
export function apply(event) {
	const node = nodes.get(event.node) ?? add(event.node);
	if (event.type === "output") {
		node.screen.write(event.output ?? decode(event.output_base64));
	} else if (event.type === "cut") {
		node.dropped = event.bytes;
		node.screen = new Screen(true); // there is a gap after what was shown so far
	} else {
		const state = (event.state ?? event.type).replace("_", " "); // only the result of a node has a state
		node.state = {ack: "running", exit: "exited", running: "left running"}[state] ?? state;
		node.code = event.exit_code;
		const known = `node ${event.node}: ` + (state === "exit" ? `exit status ${event.exit_code}` : state); // the row says it already
		node.reason = event.error?.startsWith(known) ? event.error.slice(known.length) : "";
	}
	changed.add(node);
	drawing ??= setTimeout(draw, pause);
}

// decode returns the text of output that is not UTF-8, and shows that it is not.
function decode(base64) {
	return new TextDecoder().decode(Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)));
}

// add adds a node's row, in the order of names.
function add(name) {
	const row = document.createElement("tr");
	const [head, state, code, output] = ["th", "td", "td", "td"].map((kind) => row.appendChild(document.createElement(kind)));
	head.scope = "row";
	head.textContent = name;
	const box = output.appendChild(document.createElement("pre"));
	box.setAttribute("role", "region");
	box.setAttribute("aria-label", "Output of " + name);
	box.tabIndex = 0; // lets the keyboard scroll it
	const text = box.appendChild(document.createElement("code"));
	const place = placeOf(name);
	element("rows").insertBefore(row, element("rows").rows[place] ?? null);
	names.splice(place, 0, name);
	const node = {screen: new Screen(), state: "", reason: "", dropped: 0, cells: {state, code, text}};
	nodes.set(name, node);
	return node;
}

// placeOf returns the place of a new name among the sorted ones.
function placeOf(name) {
	let from = 0, to = names.length;
	while (from < to) {
		const middle = (from + to) >> 1;
		if (names[middle] < name) {
			from = middle + 1;
		} else {
			to = middle;
		}
	}
	return from;
}

// draw draws the nodes that have changed. It only writes: to read what depends on
// the layout would make the browser lay out all rows at once.
function draw() {
	const began = performance.now();
	drawing = undefined;
	for (const {screen, state, reason, code, dropped, cells} of changed) {
		cells.state.textContent = state + reason + (dropped ? `; ${dropped.toLocaleString("en")} bytes of output dropped` : "");
		cells.state.className = state === "exited" && code === 0 ? "good" : state === "running" ? "" : "bad";
		cells.code.textContent = code ?? "";
		screen.show(cells.text);
	}
	changed.clear();
	summarize();
	pause = Math.max(50, 4 * (performance.now() - began)); // leaves the browser time to show it
}

function summarize() {
	const count = new Map();
	let dropped = 0;
	for (const node of nodes.values()) {
		const state = node.state === "exited" ? "exited with " + node.code : node.state;
		count.set(state, (count.get(state) ?? 0) + 1);
		dropped += node.dropped;
	}
	const summary = [...count].map(([state, n]) => n + " " + state).join(", ");
	element("summary").textContent = `Nodes: ${nodes.size}` + (summary && ` (${summary})`);
	element("cut").textContent = dropped ? `The service has dropped ${dropped.toLocaleString("en")} bytes of output, the oldest of the nodes with the most.` : "";
}
