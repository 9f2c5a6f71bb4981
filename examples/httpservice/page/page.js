// Shows one run: the one that the address names behind the #, so that a link to
// it or a reload shows it again. What comes from nodes is only ever set as text.

const kept = 4000; // characters of output that a node's row has
const element = (id) => document.getElementById(id);
const nodes = new Map(); // by name: {state, code, reason, output, draw}
const stale = new Set(); // the nodes whose rows are to be drawn
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

// request returns the answer, or shows why there is none.
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

// watch shows the run that the address names.
function watch() {
	source?.close();
	current = location.hash.slice(1);
	nodes.clear();
	stale.clear();
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
	source.onmessage = (message) => take(JSON.parse(message.data));
	source.onopen = () => { element("error").textContent = ""; };
	source.onerror = () => {
		const gone = source.readyState === EventSource.CLOSED;
		element("error").textContent = gone ? "The service does not have this run any more." : "The connection is lost. Trying again…";
		element("stop").disabled = gone;
	};
}

// take notes what an event says. An EventSource that reconnects goes on where it was.
function take(event) {
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
		element("cut").textContent = `${event.bytes} bytes of output that came earlier are not kept any more.`;
		return;
	case "end":
		source.close();
		element("stop").disabled = true;
		element("status").textContent = event.error ? "Ended. " + event.error : "Ended. Every node exited with 0.";
		return;
	}
	const node = nodes.get(event.node) ?? add(event.node);
	if (event.type === "output") {
		const output = node.output + event.output;
		node.output = output.length > kept ? "…" + output.slice(1 - kept) : output;
	} else {
		node.state = {ack: "running", exit: "exited", running: "left running"}[event.type] ?? event.type;
		node.code = event.exitCode;
		node.reason = event.error;
	}
	stale.add(node);
	drawing ??= setTimeout(draw, 50); // however many events there are
}

// add makes a node's row, where its name belongs.
function add(name) {
	const row = document.createElement("tr");
	const [head, state, code, output] = ["th", "td", "td", "td"].map((kind) => row.appendChild(document.createElement(kind)));
	head.scope = "row";
	head.textContent = name;
	const text = output.appendChild(document.createElement("pre"));
	text.setAttribute("role", "region");
	text.setAttribute("aria-label", "Output of " + name);
	text.tabIndex = 0; // so that the keyboard can scroll it
	const next = [...element("rows").rows].find((other) => other.cells[0].textContent > name);
	element("rows").insertBefore(row, next ?? null);
	const node = {state: "", output: "", draw() {
		state.textContent = node.reason ? node.state + ": " + node.reason : node.state;
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
	for (const node of stale) {
		node.draw();
	}
	stale.clear();
	const count = new Map();
	for (const node of nodes.values()) {
		const state = node.state === "exited" ? "exited with " + node.code : node.state;
		count.set(state, (count.get(state) ?? 0) + 1);
	}
	const summary = [...count].map(([state, n]) => n + " " + state).join(", ");
	element("summary").textContent = `Nodes: ${nodes.size}` + (summary && ` (${summary})`);
}
