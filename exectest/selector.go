package exectest

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A predicate reports whether a value passes a filter.
type predicate func(reflect.Value) bool

// newSelector compiles a filter expression for items of type T. An empty
// expression selects everything.
func newSelector[T any](text string) (func(T) bool, error) {
	if text == "" {
		return func(T) bool { return true }, nil
	}
	e, err := parseExpression(text)
	if err == nil {
		var matches predicate
		if matches, err = e.compile(reflect.TypeFor[T]()); err == nil {
			return func(item T) bool { return matches(reflect.ValueOf(item)) }, nil
		}
	}
	return nil, fmt.Errorf("Failed to create boolean expression evaluator: %w", err) // Consul's words
}

// compile returns the predicate of an expression for values of a type.
func (e *expression) compile(t reflect.Type) (predicate, error) {
	if e.operands == nil {
		return e.compileSelector(t, e.selector)
	}
	var operands []predicate
	for _, operand := range e.operands {
		matches, err := operand.compile(t)
		if err != nil {
			return nil, err
		}
		operands = append(operands, matches)
	}
	switch e.operator {
	case "not":
		return func(v reflect.Value) bool { return !operands[0](v) }, nil
	case "and":
		return func(v reflect.Value) bool { return operands[0](v) && operands[1](v) }, nil
	}
	return func(v reflect.Value) bool { return operands[0](v) || operands[1](v) }, nil
}

// unselectable are the fields that Consul's expressions can't name.
var unselectable = []string{"CreateIndex", "ModifyIndex", "Locality"}

// compileSelector returns the predicate of a comparison for what the rest of its
// selector selects from values of a type.
func (e *expression) compileSelector(t reflect.Type, rest []string) (predicate, error) {
	switch {
	case t.Kind() == reflect.Pointer:
		return e.compilePointer(t, rest)
	case len(rest) == 0:
		return e.compileOperator(t)
	case t.Kind() == reflect.Struct:
		field, found := t.FieldByName(rest[0])
		if !found || !field.IsExported() || slices.Contains(unselectable, rest[0]) {
			break
		}
		matches, err := e.compileSelector(field.Type, rest[1:])
		return func(v reflect.Value) bool { return matches(v.FieldByIndex(field.Index)) }, err
	case t.Kind() == reflect.Map && t.Key().Kind() == reflect.String:
		matches, err := e.compileSelector(t.Elem(), rest[1:])
		return func(v reflect.Value) bool {
			if item := v.MapIndex(reflect.ValueOf(rest[0])); item.IsValid() {
				return matches(item)
			}
			return e.withoutKey()
		}, err
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct:
		matches, err := e.compileSelector(t.Elem(), rest)
		return func(v reflect.Value) bool {
			for i := range v.Len() {
				if matches(v.Index(i)) {
					return true
				}
			}
			return false
		}, err
	}
	return nil, fmt.Errorf("Selector %q is not valid", e.path())
}

// compilePointer takes a nil pointer for one to the zero value.
func (e *expression) compilePointer(t reflect.Type, rest []string) (predicate, error) {
	matches, err := e.compileSelector(t.Elem(), rest)
	return func(v reflect.Value) bool {
		if v.IsNil() {
			return matches(reflect.Zero(t.Elem()))
		}
		return matches(v.Elem())
	}, err
}

// withoutKey is what Consul says of a map without the selector's key. Both
// "matches" and "not matches" are true.
func (e *expression) withoutKey() bool {
	switch e.operator {
	case "==", "in":
		return e.negated
	case "is empty":
		return !e.negated
	}
	return true
}

// compileOperator returns the predicate of a comparison with values of a type.
func (e *expression) compileOperator(t reflect.Type) (predicate, error) {
	var matches predicate
	elem := reflect.Invalid
	if t.Kind() == reflect.Slice {
		elem = t.Elem().Kind()
	}
	switch kind := t.Kind(); {
	case e.operator == "==" && kind == reflect.String:
		matches = func(v reflect.Value) bool { return v.String() == e.value }
	case e.operator == "==" && (kind == reflect.Bool || kind == reflect.Int):
		// Consul compares the values, whatever their spelling.
		want, err := parseScalar(kind, e.value)
		if err != nil {
			return nil, fmt.Errorf("Failed to coerce value %q for selector %q: %w", e.value, e.path(), err)
		}
		matches = func(v reflect.Value) bool { return fmt.Sprint(v.Interface()) == want }
	case e.operator == "matches" && kind == reflect.String:
		re, err := regexp.Compile(e.value)
		if err != nil {
			return nil, fmt.Errorf("Failed to compile regular expression %q: %w", e.value, err)
		}
		matches = func(v reflect.Value) bool { return re.MatchString(v.String()) }
	case e.operator == "in" && kind == reflect.String:
		matches = func(v reflect.Value) bool { return strings.Contains(v.String(), e.value) }
	case e.operator == "in" && kind == reflect.Map:
		matches = func(v reflect.Value) bool { return v.MapIndex(reflect.ValueOf(e.value)).IsValid() }
	case e.operator == "in" && elem == reflect.String:
		matches = func(v reflect.Value) bool { return slices.Contains(v.Interface().([]string), e.value) }
	case e.operator == "is empty" && (kind == reflect.Map || kind == reflect.Slice):
		matches = func(v reflect.Value) bool { return v.Len() == 0 }
	default:
		return nil, fmt.Errorf("Invalid match operator %q for selector %q", e.operator, e.path())
	}
	return func(v reflect.Value) bool { return matches(v) != e.negated }, nil
}

func (e *expression) path() string { return strings.Join(e.selector, ".") }

// parseScalar returns a number or a truth value as fmt.Sprint spells it.
func parseScalar(kind reflect.Kind, text string) (string, error) {
	if kind == reflect.Bool {
		b, err := strconv.ParseBool(text)
		return fmt.Sprint(b), err
	}
	n, err := strconv.ParseInt(text, 0, 0)
	return fmt.Sprint(n), err
}
