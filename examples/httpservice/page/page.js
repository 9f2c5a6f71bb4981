// Shows the run whose ID follows the # in the address, so that a link or a reload
// shows the same run. Data from nodes is only ever set as text, never as HTML.

const maxShown = 4000; // characters of output in a node's row
const element = (id) => document.getElementById(id);
const nodes = new Map(); // by name: {state, code, reason, output, draw}
const changed = new Set(); // the nodes whose rows must be drawn again
let source, drawing, current = "";

element("form").addEventListener("submit", async (event) => {
	event.preventDefault();
	element("error").textContent = "";
	element("run").disabled = true;
	const order = {
		command: element("command").value,
		node: element("node").value,
		nodes: element("nodes").value.split(/[\s,]+/).filter((name) => name),
	};
	const answer = await request("/runs", {
		method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(order),
	});
	element("run").disabled = false;
	if (answer) {
		location.hash = answer.id;
	}
});

element("stop").addEventListener("click", async () => {
	element("stop").disabled = true;
	element("status").textContent = "Stopping…";
	await request("/runs/" + current, {method: "DELETE"});
});

// request returns the answer of the service. If there is none, it shows the error.
async function request(path, options) {
	try {
		const response = await fetch(path, options);
		const answer = response.status === 204 ? {} : await response.json();
		if (response.ok) {
			return answer;
		}
		element("error").textContent = answer.error;
	} catch (error) {
		element("error").textContent = "The service does not answer: " + error.message;
	}
}

addEventListener("hashchange", watch);
watch();

// watch shows the run whose ID is in the address.
function watch() {
	source?.close();
	current = location.hash.slice(1);
	nodes.clear();
	changed.clear();
	element("rows").replaceChildren();
	element("summary").textContent = current ? "Nodes" : "No run yet";
	for (const id of ["status", "cut", "error"]) {
		element(id).textContent = "";
	}
	element("stop").disabled = !current;
	if (!current) {
		return;
	}
	source = new EventSource("/runs/" + encodeURIComponent(current) + "/events");
	source.onmessage = (message) => apply(JSON.parse(message.data));
	source.onopen = () => { element("error").textContent = ""; };
	source.onerror = () => {
		const gone = source.readyState === EventSource.CLOSED;
		element("error").textContent = gone ? "The service no longer has this run." : "Connection lost. Reconnecting…";
		element("stop").disabled = gone;
	};
}

// apply updates the page with an event. No event comes twice: after a reconnect, an
// EventSource gets only the events that follow.
function apply(event) {
	switch (event.type) {
	case "start":
		element("command").value = event.order.command;
		element("node").value = event.order.node;
		element("nodes").value = (event.order.nodes ?? []).join(" ");
		element("status").textContent = "Starting…";
		return;
	case "submit":
		element("status").textContent = "Running: " + element("command").value;
		return;
	case "cut":
		element("cut").textContent = `The service has dropped the oldest ${event.bytes} bytes of output.`;
		return;
	case "end":
		source.close();
		element("stop").disabled = true;
		element("status").textContent = event.error ? "Ended. " + event.error : "Ended. The exit code of every node is 0.";
		return;
	}
	const node = nodes.get(event.node) ?? add(event.node);
	if (event.type === "output") {
		const output = node.output + (event.output ?? decode(event.output_base64));
		node.output = output.length > maxShown ? "…" + output.slice(1 - maxShown) : output;
	} else {
		const state = (event.state ?? event.type).replace("_", " "); // only the result of a node has a state
		node.state = {ack: "running", exit: "exited", running: "left running"}[state] ?? state;
		node.code = event.exit_code;
		const known = `node ${event.node}: ` + (state === "exit" ? `exit status ${event.exit_code}` : state); // the row says it already
		node.reason = event.error?.startsWith(known) ? event.error.slice(known.length) : "";
	}
	changed.add(node);
	drawing ??= setTimeout(draw, 50); // one drawing for many events
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
	const text = output.appendChild(document.createElement("pre"));
	text.setAttribute("role", "region");
	text.setAttribute("aria-label", "Output of " + name);
	text.tabIndex = 0; // lets the keyboard scroll it
	const next = [...element("rows").rows].find((other) => other.cells[0].textContent > name);
	element("rows").insertBefore(row, next ?? null);
	const node = {state: "", reason: "", output: "", draw() {
		state.textContent = node.state + node.reason;
		state.className = node.state === "exited" && node.code === 0 ? "good" : node.state === "running" ? "" : "bad";
		code.textContent = node.code ?? "";
		text.textContent = node.output;
		text.scrollTop = text.scrollHeight;
	}};
	nodes.set(name, node);
	return node;
}

function draw() {
	drawing = undefined;
	for (const node of changed) {
		node.draw();
	}
	changed.clear();
	const count = new Map();
	for (const node of nodes.values()) {
		const state = node.state === "exited" ? "exited with " + node.code : node.state;
		count.set(state, (count.get(state) ?? 0) + 1);
	}
	const summary = [...count].map(([state, n]) => n + " " + state).join(", ");
	element("summary").textContent = `Nodes: ${nodes.size}` + (summary && ` (${summary})`);
}
