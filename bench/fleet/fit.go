package main

import "math"

// fit returns the constants c for which the sum of c[k]·x[k] is nearest to y in all observations. What
// counts is the relative error, so that a small figure counts as much as a large one. It solves
// the normal equations.
func fit(xs [][]float64, ys []float64) []float64 {
	n := len(xs[0])
	m := make([][]float64, n) // the equations, each with its right side behind
	for row := range m {
		m[row] = make([]float64, n+1)
		for i, x := range xs {
			weight := 1 / (ys[i] * ys[i])
			for column := range n {
				m[row][column] += weight * x[row] * x[column]
			}
			m[row][n] += weight * x[row] * ys[i]
		}
	}
	for pivot := range n {
		best := pivot
		for row := pivot; row < n; row++ {
			if math.Abs(m[row][pivot]) > math.Abs(m[best][pivot]) {
				best = row
			}
		}
		m[pivot], m[best] = m[best], m[pivot]
		for row := range n {
			if row == pivot {
				continue
			}
			factor := m[row][pivot] / m[pivot][pivot]
			for column := pivot; column <= n; column++ {
				m[row][column] -= factor * m[pivot][column]
			}
		}
	}
	constants := make([]float64, n)
	for k := range n {
		constants[k] = m[k][n] / m[k][k]
	}
	return constants
}

// predict returns what constants say of an observation, of which they may leave out the last figures.
func predict(constants, x []float64) (y float64) {
	for k, c := range constants {
		y += c * x[k]
	}
	return y
}
