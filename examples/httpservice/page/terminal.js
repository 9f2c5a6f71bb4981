// Shows output as a terminal would, as far as one cell of a table can: colours and
// other styles (SGR), lines that a carriage return or a backspace overwrites, and
// "erase in line". It leaves out all other escape sequences, and shows all other
// control characters.

const maxShown = 4000; // characters

// A token is an escape sequence (CSI, OSC and other strings, or a short one), or a
// control character. An unfinished one may follow in the next output.
const token = /\x1b\[([0-?]*)[ -\/]*([@-~])|\x1b[\]PX^_][^\x00-\x1f]*(?:\x07|\x1b\\)|\x1b[ -\/]*[0-Z\\`-~]|[\x00-\x08\x0a-\x1f\x7f-\x9f]/g;
const unfinished = /\x1b(?:\[[0-?]*[ -\/]*|[\]PX^_][^\x00-\x1f]{0,4000}\x1b?|[ -\/]*)$/;

export class Screen {
	#lines = []; // the finished lines, as parts of one style: {text, style}
	#length = 0; // characters in #lines
	#cut; // whether the beginning is missing
	#characters = []; // of the current line
	#styles = []; // of the current line, one for each character
	#column = 0; // where the next character goes
	#sgr = {}; // what the last escape sequences have set
	#style = ""; // #sgr as names of classes
	#rest = ""; // an unfinished escape sequence

	// The beginning of the output may be missing.
	constructor(cut = false) {
		this.#cut = cut;
	}

	write(output) {
		let text = this.#rest + output;
		const tail = unfinished.exec(text);
		this.#rest = tail ? tail[0] : "";
		text = tail ? text.slice(0, tail.index) : text;
		let from = 0;
		for (const match of text.matchAll(token)) {
			this.#put(text.slice(from, match.index));
			this.#control(match);
			from = match.index + match[0].length;
		}
		this.#put(text.slice(from));
		this.#shorten();
	}

	// show shows the end of the output in an element.
	show(element) {
		const parts = [...this.#lines, ...this.#join()];
		const over = this.#cut || lengthOf(parts) > maxShown;
		let left = over ? maxShown - 1 : maxShown;
		const shown = [];
		while (parts.length && left > 0) {
			const {text, style} = parts.pop();
			const end = text.slice(-left).replace(/^[\udc00-\udfff]/, ""); // not half a character
			left -= end.length;
			shown.unshift(style ? Object.assign(document.createElement("span"), {textContent: end, className: style}) : end);
		}
		element.replaceChildren(over ? "…" : "", ...shown);
	}

	#put(text) {
		while (text && this.#characters.length < this.#column) { // after the line was erased
			this.#characters.push(" ");
			this.#styles.push("");
		}
		for (const character of text) {
			this.#characters[this.#column] = character;
			this.#styles[this.#column] = this.#style;
			this.#column++;
		}
		if (this.#column > 2 * maxShown) { // a line without an end
			const over = this.#column - maxShown;
			this.#characters.splice(0, over);
			this.#styles.splice(0, over);
			this.#column -= over;
			this.#lines = [];
			this.#length = 0;
			this.#cut = true;
		}
	}

	#control([sequence, parameters, final]) {
		switch (sequence) {
		case "\n":
			this.#endLine();
			return;
		case "\r":
			this.#column = 0;
			return;
		case "\b":
			this.#column = Math.max(0, this.#column - 1);
			return;
		}
		if (final === "m") {
			this.#sgr = select(this.#sgr, parameters);
			this.#style = classes(this.#sgr);
		} else if (final === "K") {
			this.#erase(Number(parameters));
		} else if (sequence.length === 1) {
			const code = sequence.charCodeAt(0);
			this.#put(code < 0x20 ? String.fromCharCode(0x2400 + code) : code === 0x7f ? "␡" : "\uFFFD");
		}
	}

	#endLine() {
		this.#characters.push("\n");
		this.#styles.push("");
		const parts = this.#join();
		this.#lines.push(...parts);
		this.#length += lengthOf(parts);
		this.#characters = [];
		this.#styles = [];
		this.#column = 0;
	}

	// erase erases from the cursor to the end of the line (0), from its beginning
	// to the cursor (1), or all of it (2).
	#erase(what) {
		if (what === 1) {
			const end = Math.min(this.#column + 1, this.#characters.length);
			this.#characters.fill(" ", 0, end);
			this.#styles.fill("", 0, end);
		} else {
			this.#characters.length = this.#styles.length = what === 2 ? 0 : Math.min(this.#column, this.#characters.length);
		}
	}

	// join returns the current line as parts of one style.
	#join() {
		const parts = [];
		for (let i = 0; i < this.#characters.length; i++) {
			const last = parts.at(-1);
			if (last && last.style === this.#styles[i]) {
				last.text += this.#characters[i];
			} else {
				parts.push({text: this.#characters[i], style: this.#styles[i]});
			}
		}
		return parts;
	}

	// shorten drops lines that are not shown any more.
	#shorten() {
		let drop = 0;
		while (drop < this.#lines.length && this.#length - this.#lines[drop].text.length >= maxShown) {
			this.#length -= this.#lines[drop++].text.length;
		}
		if (drop > 0) {
			this.#lines.splice(0, drop);
			this.#cut = true;
		}
	}
}

const lengthOf = (parts) => parts.reduce((length, {text}) => length + text.length, 0);

const on = {1: "bold", 2: "dim", 3: "italic", 4: "underline", 7: "inverse", 9: "strike"};
const off = {22: ["bold", "dim"], 23: ["italic"], 24: ["underline"], 27: ["inverse"], 29: ["strike"], 39: ["text"], 49: ["back"]};

// select returns what the parameters of an SGR sequence make of what was set.
function select(sgr, parameters) {
	const codes = parameters.split(";").map((code) => code.split(":"));
	sgr = {...sgr};
	while (codes.length) {
		const code = codes.shift();
		const n = Number(code[0]);
		const ground = n >= 30 && n <= 38 || n >= 90 && n <= 97 ? "text" : "back";
		if (n === 0) {
			sgr = {};
		} else if (on[n]) {
			sgr[on[n]] = code[1] !== "0"; // 4:0 is no underline
		} else if (off[n]) {
			off[n].forEach((name) => delete sgr[name]);
		} else if (n === 38 || n === 48) {
			const rest = code.length > 1 ? code.slice(1) : codes.splice(0, codes[0]?.[0] === "2" ? 4 : 2).flat();
			sgr[ground] = rest[0] === "5" ? ofPalette(Number(rest[1])) : nearest(...rest.slice(-3).map(Number));
		} else if (n >= 30 && n <= 47 || n >= 90 && n <= 107) {
			sgr[ground] = n === 90 ? 7 : n % 10; // there is one shade of each colour, which can be read; bright black is grey
		}
	}
	return sgr;
}

// ofPalette returns which of the eight colours stands for one of 256.
function ofPalette(n) {
	if (n < 16) {
		return n === 8 ? 7 : n % 8;
	}
	if (n >= 232) {
		return 7; // grey
	}
	n -= 16;
	return nearest(...[n / 36, n / 6 % 6, n % 6].map((level) => Math.floor(level) * 51));
}

// nearest returns which of the eight colours stands for red, green and blue.
function nearest(red, green, blue) {
	const strong = Math.max(red, green, blue, 64) * .6;
	return (red > strong) + 2 * (green > strong) + 4 * (blue > strong);
}

// classes returns the names of the classes in page.css.
function classes({text, back, ...others}) {
	const names = Object.keys(others).filter((name) => others[name]);
	if (text !== undefined) {
		names.push("text" + text);
	}
	if (back !== undefined) {
		names.push("back" + back);
	}
	return names.join(" ");
}
