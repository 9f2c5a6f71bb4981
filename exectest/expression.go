package exectest

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// An expression is a filter expression of Consul, parsed: a comparison, or
// expressions joined by and, or or not.
type expression struct {
	operator string   // "and", "or", "not", "==", "in", "is empty" or "matches"
	negated  bool     // of a comparison
	selector []string // of a comparison
	value    string   // of a comparison, except "is empty"
	operands []*expression
}

// parseExpression parses a filter expression by the grammar of go-bexpr 0.1.2,
// which is Consul's.
func parseExpression(text string) (*expression, error) {
	p := &expressionParser{rest: text}
	p.skip(space)
	e := p.or()
	p.skip(space)
	switch {
	case p.err != nil:
		return nil, p.err
	case e == nil || p.rest != "":
		return nil, fmt.Errorf("no match found at byte %d", len(text)-len(p.rest))
	}
	return e, nil
}

// An expressionParser parses the beginning of rest. Each method that finds
// nothing returns nil or false and leaves rest as it is.
type expressionParser struct {
	rest string
	err  error // of a literal
}

var (
	space      = regexp.MustCompile(`^[ \t\r\n]+`)
	orRE       = regexp.MustCompile(`^\s+or\s+`)
	andRE      = regexp.MustCompile(`^\s+and\s+`)
	notRE      = regexp.MustCompile(`^not\s+`)
	identifier = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_]*`)
	number     = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?`)
	literal    = regexp.MustCompile("^(`[^`]*`|\"[^\"]*\")")
	openIndex  = regexp.MustCompile(`^\[\s*`)
	closeIndex = regexp.MustCompile(`^\s*\]`)
	openGroup  = regexp.MustCompile(`^\(\s*`)
	closeGroup = regexp.MustCompile(`^\s*\)`)

	// The operators between a selector and a value, after a selector, and
	// between a value and a selector. In Consul "contains" is "in".
	beforeValue    = regexp.MustCompile(`^(?:\s*(==|!=)\s*|\s+((?:not\s+)?(?:contains|matches))\s+)`)
	afterSelector  = regexp.MustCompile(`^\s+(is\s+(?:not\s+)?empty)`)
	beforeSelector = regexp.MustCompile(`^\s+((?:not\s+)?in)\s+`)
)

// skip removes what the pattern matches, and reports whether it matches.
func (p *expressionParser) skip(pattern *regexp.Regexp) bool {
	_, ok := p.take(pattern)
	return ok
}

// take removes what the pattern matches, and returns its groups.
func (p *expressionParser) take(pattern *regexp.Regexp) (groups []string, ok bool) {
	groups = pattern.FindStringSubmatch(p.rest)
	if groups == nil {
		return nil, false
	}
	p.rest = p.rest[len(groups[0]):]
	return groups, true
}

func (p *expressionParser) or() *expression { return p.joined("or", orRE, p.and) }

func (p *expressionParser) and() *expression { return p.joined("and", andRE, p.not) }

func (p *expressionParser) joined(operator string, pattern *regexp.Regexp, operand func() *expression) *expression {
	e := operand()
	if e == nil {
		return nil
	}
	before := p.rest
	if !p.skip(pattern) {
		return e
	}
	right := p.joined(operator, pattern, operand)
	if right == nil {
		p.rest = before
		return e
	}
	return &expression{operator: operator, operands: []*expression{e, right}}
}

func (p *expressionParser) not() *expression {
	before := p.rest
	if p.skip(notRE) {
		if e := p.not(); e != nil {
			return &expression{operator: "not", operands: []*expression{e}}
		}
		p.rest = before
	}
	if !p.skip(openGroup) {
		return p.comparison()
	}
	e := p.or()
	if e == nil || !p.skip(closeGroup) {
		p.rest = before
		return nil
	}
	return e
}

func (p *expressionParser) comparison() *expression {
	before := p.rest
	if selector := p.selector(); selector != nil {
		if groups, ok := p.take(beforeValue); ok {
			if value, ok := p.value(); ok {
				return compare(selector, groups[1]+groups[2], value)
			}
		} else if groups, ok := p.take(afterSelector); ok {
			return compare(selector, groups[1], "")
		}
		p.rest = before
	}
	if value, ok := p.value(); ok {
		if groups, ok := p.take(beforeSelector); ok {
			if selector := p.selector(); selector != nil {
				return compare(selector, groups[1], value)
			}
		}
	}
	p.rest = before
	return nil
}

// compare returns a comparison by an operator as it is written.
func compare(selector []string, operator, value string) *expression {
	words := strings.Fields(operator)
	e := &expression{selector: selector, value: value}
	for _, word := range words {
		switch word {
		case "not":
			e.negated = true
		case "!=":
			e.operator, e.negated = "==", true
		case "contains":
			e.operator = "in"
		case "empty":
			e.operator = "is empty"
		default:
			e.operator = word
		}
	}
	return e
}

// selector parses a path such as Meta.rack or Meta["rack-id"].
func (p *expressionParser) selector() []string {
	first, ok := p.take(identifier)
	if !ok {
		return nil
	}
	selector := []string{first[0]}
	for {
		before := p.rest
		if strings.HasPrefix(p.rest, ".") {
			p.rest = p.rest[1:]
			if name, ok := p.take(identifier); ok {
				selector = append(selector, name[0])
				continue
			}
		} else if p.skip(openIndex) {
			if key, ok := p.literal(); ok && p.skip(closeIndex) {
				selector = append(selector, key)
				continue
			}
		}
		p.rest = before
		return selector
	}
}

// value parses a value. A word without quotes is one, too.
func (p *expressionParser) value() (value string, ok bool) {
	if selector := p.selector(); selector != nil {
		return strings.Join(selector, "."), true
	}
	before := p.rest
	if groups, ok := p.take(number); ok {
		if p.rest == "" || p.rest[0] == ')' || space.MatchString(p.rest) {
			return groups[0], true
		}
		p.rest, p.err = before, errors.New("invalid number literal")
		return "", false
	}
	return p.literal()
}

func (p *expressionParser) literal() (text string, ok bool) {
	groups, ok := p.take(literal)
	if !ok {
		return "", false
	}
	text, err := strconv.Unquote(groups[0])
	if err != nil {
		p.err = fmt.Errorf("string literal %s: %w", groups[0], err)
		return "", false
	}
	return text, true
}
