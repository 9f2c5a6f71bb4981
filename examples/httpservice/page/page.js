// Shows the run whose ID follows the # in the address, so that a link or a reload
// shows the same run. The form starts runs.

import {apply, clear} from "./nodes.js";
import {mark, refresh, shorten} from "./runs.js";

const repeatTime = 1000; // ms within which the same order again is the same run
const maxLines = 10; // of the error of a run
const element = (id) => document.getElementById(id);
let source; // of the events of the run that is shown
let current = ""; // its ID
let running = false; // whether it is under way
let command = ""; // what it runs
let last = {}; // the last order of the form: its body, key, time, and the ID of its run

element("form").addEventListener("submit", async (event) => {
	event.preventDefault();
	if (element("run").disabled) {
		return;
	}
	element("error").textContent = "";
	element("run").disabled = true;
	const order = readForm();
	if (order.node || order.nodes || await confirmed(order)) {
		await start(JSON.stringify(order));
	}
	element("run").disabled = false;
});

// readForm returns the order that stands in the form. An empty field is left out,
// which means all nodes. The service refuses a list with an empty name.
function readForm() {
	const order = {command: element("command").value};
	if (element("node").value) {
		order.node = element("node").value;
	}
	const names = element("nodes").value.trim();
	if (names) {
		order.nodes = names.split(/\s*,\s*|\s+/);
	}
	return order;
}

// start starts a run and shows it. An order that repeats the last one, as a second
// Enter does, has the same key, so that it starts no second run. So has one after an
// answer that got lost.
async function start(body) {
	const repeats = body === last.body && (!last.answered || Date.now() - last.time < repeatTime || last.id === current && running);
	last = repeats ? last : {body, key: Array.from(crypto.getRandomValues(new Uint32Array(4))).join("-")};
	const answer = await request("/runs", {headers: {"Idempotency-Key": last.key}, body});
	if (answer?.id && answer.id === last.id && Date.now() - last.time > repeatTime) {
		element("error").textContent = "This is under way already. Stop it, or wait for its end, to run it again.";
	}
	last.time = Date.now();
	last.answered = answer !== undefined;
	if (answer?.id) {
		last.id = answer.id;
		location.hash = answer.id;
		refresh();
	}
}

// confirmed asks whether to run on all nodes, and says how many these are. The focus
// is on no button, so that a second Enter does not answer.
async function confirmed(order) {
	const targets = await request("/targets", {body: JSON.stringify(order)});
	if (!targets?.nodes) {
		return false;
	}
	const n = targets.nodes.length;
	element("ask-command").textContent = shorten(order.command);
	element("ask-nodes").textContent = (n ? `On all nodes, now ${n.toLocaleString("en")}.` : "On all nodes.") + (targets.error ? " " + targets.error : "");
	const dialog = element("ask");
	dialog.returnValue = "";
	dialog.showModal();
	return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), {once: true}));
}

element("yes").addEventListener("click", () => element("ask").close("yes"));
element("no").addEventListener("click", () => element("ask").close(""));

element("stop").addEventListener("click", async () => {
	element("stop").disabled = true;
	element("status").textContent = "Stopping: " + shorten(command);
	await request("/runs/" + encodeURIComponent(current), {method: "DELETE"});
});

// request returns the answer of the service. If that is an error, it shows it, and
// the answer has no more than the error. If there is no answer, it returns
// undefined.
async function request(path, {method = "POST", headers = {}, body}) {
	try {
		const response = await fetch(path, {method, body, headers: {"Content-Type": "application/json", ...headers}});
		const answer = response.status === 204 ? {} : await response.json();
		if (!response.ok) {
			element("error").textContent = answer.error;
			return {};
		}
		return answer;
	} catch (error) {
		element("error").textContent = "The service does not answer: " + error.message;
	}
}

addEventListener("hashchange", watch);
watch();
refresh();

// watch shows the run whose ID is in the address.
function watch() {
	source?.close();
	current = location.hash.slice(1);
	running = false;
	clear();
	mark(current);
	element("summary").textContent = current ? "Nodes" : "No run yet";
	for (const id of ["status", "error"]) {
		element(id).textContent = "";
	}
	element("stop").disabled = !current;
	if (!current) {
		return;
	}
	source = new EventSource("/runs/" + encodeURIComponent(current) + "/events");
	source.onmessage = (message) => follow(JSON.parse(message.data));
	source.onopen = () => { element("error").textContent = ""; };
	source.onerror = () => {
		const gone = source.readyState === EventSource.CLOSED;
		element("error").textContent = gone ? "The service no longer has this run, or has too many readers." : "Connection lost. Reconnecting…";
		element("stop").disabled = gone;
	};
}

// follow updates the page with an event of the run.
function follow(event) {
	switch (event.type) {
	case "start":
		running = true;
		command = event.order.command;
		if (current !== last.id) { // else the form has it, or what is to be next
			element("command").value = command;
			element("node").value = event.order.node ?? "";
			element("nodes").value = (event.order.nodes ?? []).join(" ");
		}
		element("status").textContent = "Starting: " + shorten(command);
		return;
	case "submit":
		element("status").textContent = "Running: " + shorten(command);
		return;
	case "end":
		running = false;
		source.close();
		element("stop").disabled = true;
		element("status").textContent = `Ended: ${shorten(command)}\n${beginning(event.error ?? "The exit code of every node is 0.")}`;
		refresh();
		return;
	}
	apply(event);
}

// beginning returns the first lines of an error, which has one for each failed node.
function beginning(error) {
	const lines = error.split("\n");
	return lines.length > maxLines ? lines.slice(0, maxLines).join("\n") + `\n… and ${lines.length - maxLines} lines more` : error;
}
