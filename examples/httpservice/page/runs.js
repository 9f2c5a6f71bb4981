// Lists the runs that are under way and those that ended lately.

const interval = 5000; // ms between two looks
const rows = new Map(); // by the ID of the run
let shown = "", timer;

// refresh lists the runs now, and again after the interval.
export async function refresh() {
	clearTimeout(timer);
	const caption = document.getElementById("runs-summary");
	try {
		const response = await fetch("/runs");
		const answer = await response.json();
		if (response.ok) {
			list(answer.runs);
		}
		const running = response.ok ? answer.runs.filter((run) => run.state === "running").length : 0;
		caption.textContent = response.ok ? `Runs: ${running} under way, ${answer.runs.length - running} ended lately` : "Runs: " + answer.error;
	} catch (error) {
		caption.textContent = "Runs: the service does not answer";
	}
	clearTimeout(timer); // another call may have set one meanwhile
	timer = setTimeout(() => document.hidden || refresh(), interval);
}

document.addEventListener("visibilitychange", () => document.hidden || refresh());

// mark marks the run that the page shows.
export function mark(id) {
	for (const [other, row] of rows) {
		row.setAttribute("aria-current", other === id);
	}
}

function list(runs) {
	for (const run of runs) {
		const row = rows.get(run.id) ?? add(run);
		row.cells[1].textContent = where(run);
		row.cells[2].textContent = state(run);
		row.cells[2].className = {succeeded: "good", failed: "bad"}[run.state] ?? "";
	}
	const ids = runs.map((run) => run.id).join();
	if (ids !== shown) { // moving rows would take the focus from their links
		shown = ids;
		const kept = new Set(runs.map((run) => run.id));
		[...rows.keys()].filter((id) => !kept.has(id)).forEach((id) => rows.delete(id));
		document.getElementById("runs").replaceChildren(...runs.map((run) => rows.get(run.id)));
		mark(location.hash.slice(1));
	}
}

function add(run) {
	const row = document.createElement("tr");
	const link = row.appendChild(document.createElement("th")).appendChild(document.createElement("a"));
	row.cells[0].scope = "row";
	link.href = "#" + run.id;
	link.textContent = shorten(run.command);
	row.append(...["td", "td", "td"].map((kind) => document.createElement(kind)));
	row.cells[3].textContent = new Date(run.started).toLocaleTimeString() + (run.user ? ", " + run.user : "");
	rows.set(run.id, row);
	return row;
}

// where says on which nodes a run is.
function where(run) {
	const names = run.nodes ? (run.nodes.length > 3 ? run.nodes.length + " names" : run.nodes.join(", ")) : "";
	return [run.node, names].filter((text) => text).join(" among ") || "all nodes";
}

// state says how far a run is.
function state({state, counts}) {
	const parts = [["running", counts.running], ["succeeded", counts.succeeded], ["failed", counts.failed]];
	const nodes = parts.filter(([, n]) => n).map(([word, n]) => n + " " + word).join(", ");
	const of = state === "running" && counts.expected ? " of " + counts.expected : "";
	return nodes ? `${state}: ${nodes}${of}` : state;
}

// shorten returns the beginning of a text, in one line.
export function shorten(text) {
	const line = text.replace(/\s+/g, " ");
	return line.length > 200 ? line.slice(0, 199) + "…" : line;
}
